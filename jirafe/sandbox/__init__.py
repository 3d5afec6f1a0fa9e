"""A local stand-in of the Jirafe Events API v2.

It validates as the real one did, shows what it received, and can be told to fail. For demos, tests and
benches; it keeps everything in memory and is no production service.
"""

from jirafe.sandbox.server import SandboxServer, serve
from jirafe.sandbox.state import Sandbox

__all__ = ["Sandbox", "SandboxServer", "serve"]
