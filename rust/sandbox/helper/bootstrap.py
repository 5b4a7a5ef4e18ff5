"""The first code of a worker (`python -I -S -B -c`): takes the other files of this folder from the control socket.

The judged program is executed from here, and not from deeper down, so that its recursion limit and tracebacks are what
they are under `python3 solution.py`.
"""

import _socket
import sys
import types

_control = _socket.socket(fileno=0)
_parts = _control.recv(1 << 17).decode().split("\0")
_control.detach()
for _name, _text in zip(_parts[::2], _parts[1::2], strict=True):
    _module = types.ModuleType(_name)
    sys.modules[_name] = _module
    exec(compile(_text, f"<judge helper {_name}.py>", "exec"), _module.__dict__)

_program = sys.modules["zygote"].main()
try:
    exec(_program.code, _program.namespace)
    _program.call()
except BaseException as _error:
    _program.error = _error
_program.finish()
