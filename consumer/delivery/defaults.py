"""Where events go, and as whom: what a message says, else what the settings say."""

from dataclasses import dataclass, field

from jirafe.client import Site
from jirafe.services import Parameters


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where a message's events go, and as whom; None where the message leaves it to the settings."""

    site_id: str | None
    access_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the settings give where a message says nothing: credentials, and parameters by dotted name.

    The token is for the settings' own site, and for `sites`: a message must not have it sent anywhere else.
    """

    credentials: Credentials
    parameters: Parameters
    sites: frozenset[str] = frozenset()

    def knows(self, site_id: str) -> bool:
        """Tell whether the settings name a site."""
        return site_id == self.credentials.site_id or site_id in self.sites

    def site(self, credentials: Credentials) -> Site:
        """Resolve where an event goes: by its message, else by these. What nothing gives is empty."""
        own = self.credentials
        site_id = credentials.site_id or own.site_id or ""
        token = own.access_token if self.knows(site_id) else None
        return Site(site_id, credentials.access_token or token or "")
