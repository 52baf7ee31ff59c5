"""The compiled half of the cffi binding; its names are those of csrc/memphis_*.h, which cffi types at run time."""

from typing import Any

ffi: Any
lib: Any
