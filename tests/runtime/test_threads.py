import ctypes
import os
import sys
import threading
import time

import pytest

from stcl_cli.runtime.threads import eager_threads, thread_pool

FREEING = 200_000  # microseconds


def slow_to_leave():
    """A value local to this thread that takes FREEING to free; gives the thread's number."""
    library = ctypes.CDLL("libc.so.6")
    key = ctypes.c_uint()
    library.pthread_key_create(ctypes.byref(key), library.usleep)
    library.pthread_setspecific(key, ctypes.c_void_p(FREEING))
    return threading.get_native_id()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux")
def test_its_threads_have_left_to_the_last_instruction():
    with thread_pool(2) as pool:
        numbers = {pool.submit(slow_to_leave).result() for _ in range(3)}
    assert numbers
    assert not numbers & set(map(int, os.listdir("/proc/self/task")))


def test_eager_threads_only_inside():
    before = sys.getswitchinterval()
    with eager_threads():
        assert sys.getswitchinterval() < before / 10
    assert sys.getswitchinterval() == before


def test_after_an_error_what_has_not_begun_is_not_done():
    done = []

    def run():
        with thread_pool(1) as pool:
            for number in range(50):
                pool.submit(lambda number=number: (time.sleep(0.05), done.append(number)))
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        run()
    assert len(done) < 10
