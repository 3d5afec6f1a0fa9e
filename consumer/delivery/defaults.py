"""The site and token of events, and parameters: from the message, or else from the settings."""

from dataclasses import dataclass, field

from jirafe.client import Site
from jirafe.services import Parameters


@dataclass(frozen=True, slots=True)
class Credentials:
    """The site and token of a message's events; None if the message leaves it to the settings."""

    site_id: str | None
    access_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Defaults from the settings: credentials, and parameters by dotted name.

    The token is only for the settings' own site and for `sites`: no message may make us send it anywhere else.
    """

    credentials: Credentials
    parameters: Parameters
    sites: frozenset[str] = frozenset()

    def knows(self, site_id: str) -> bool:
        """Return whether the settings name a site."""
        return site_id == self.credentials.site_id or site_id in self.sites

    def site(self, credentials: Credentials) -> Site:
        """Return where an event goes: by its message, or else by these defaults. Missing values are empty."""
        own = self.credentials
        site_id = credentials.site_id or own.site_id or ""
        token = own.access_token if self.knows(site_id) else None
        return Site(site_id, credentials.access_token or token or "")
