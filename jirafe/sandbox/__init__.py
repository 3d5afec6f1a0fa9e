"""A local stand-in for the Jirafe Events API v2.

It validates events like the real API, shows what it received, and can be told to fail. Use it for demos, tests and
benchmarks. It keeps everything in memory, and is not meant for production.
"""

from jirafe.sandbox.server import SandboxServer, serve
from jirafe.sandbox.state import Sandbox

__all__ = ["Sandbox", "SandboxServer", "serve"]
