"""Tools that models may ask for: Python functions, and the tools of MCP servers.

`@tool` marks a function as one, and `Tool` is what any object must have to be one. Nothing of the MCP SDK is loaded
before the first session with an MCP server. Above: the agents that use tools.
"""

from aixgo.tools.contract import Tool
from aixgo.tools.functions import FunctionTool, tool

__all__ = ["FunctionTool", "Tool", "tool"]
