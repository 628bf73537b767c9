"""What the index shows of a release, made where it is built: the README with links that lead somewhere, and addresses.

The README's links are relative, as a checkout and the code's host want them; the index has nothing beside the text.
Where a run of GitHub's builds it, `GITHUB_REPOSITORY` names the place that they lead to; elsewhere they stay.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<before>(?P<picture>!?)\[[^\]]*\]\()(?P<target>(?!https?://|#)[^)]+)\)")


class PackageMetadata(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text("utf-8")
        server, repository = (
            os.environ.get("GITHUB_SERVER_URL", "https://github.com"),
            os.environ.get("GITHUB_REPOSITORY"),
        )
        if repository:
            place = f"{server}/{repository}"
            text = with_links_to(place, f"v{metadata['version']}", text)
            metadata["urls"] = {
                "Homepage": place,
                "Documentation": f"{place}/tree/v{metadata['version']}/docs",
                "Changelog": f"{place}/blob/v{metadata['version']}/CHANGELOG.md",
                "Issues": f"{place}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_links_to(place: str, tag: str, text: str) -> str:
    """Pages as their host shows them, pictures as they are.

    >>> with_links_to("https://host/ours", "v1", "[page](docs/page.md#part) ![](a.png) [far](https://elsewhere)")
    '[page](https://host/ours/blob/v1/docs/page.md#part) ![](https://host/ours/raw/v1/a.png) [far](https://elsewhere)'
    """

    def whole(link: re.Match[str]) -> str:
        return f"{link['before']}{place}/{'raw' if link['picture'] else 'blob'}/{tag}/{link['target']})"

    return _LINK.sub(whole, text)
