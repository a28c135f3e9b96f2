"""Networks of stcl; they know torch and timm, and nothing of the command line tool."""
