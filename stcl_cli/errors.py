"""Errors a user can cause and cure, and the exit codes of every command."""

from stcl_cli.wording import printable

EXIT_ERROR = 1  # 0: done; 2: wrong usage, as click has it
EXIT_SKIPPED = 3  # finished, but some inputs were skipped; each is named in failed.jsonl
EXIT_STOPPED = 130  # by Ctrl-C, as shells have it
EXIT_TERMINATED = 143  # by SIGTERM, as a cluster sends it before it takes a machine away

LONGEST = 2600  # characters of a message


class StclError(Exception):
    """Something the user can cure. The message is one line that names the file and the cure.

    What strangers' files bring into it is escaped, and of a text beyond all reason, such as a class name of a megabyte,
    the middle is left out.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[:2000]} ... {text[-500:]}"


class PhotoError(StclError):
    """One photo, mask or CAM that cannot be used; a run over many goes on without it."""


# What is said where memory is too small and PyTorch's class for that, OutOfMemoryError, is not used: by the CPU's
# allocator, and on a GPU by what asks CUDA for memory beside PyTorch's allocator (contexts, kernels, cuBLAS, cuDNN).
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "Storage size calculation overflowed",
    "MemoryError in DataLoader worker",  # NumPy's, whose class takes more than PyTorch gives it
    "not enough memory",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, the machine's or a GPU's. Imports no torch: goes by names and words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
