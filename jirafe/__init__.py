"""The API side: from a decoded hub message to Jirafe events, and their delivery over HTTP."""
