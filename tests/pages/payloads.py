"""Texts that would run a script, were they taken for markup. Each sets `window.hurt`."""

from itertools import product

_RUN = "window.hurt=1"
_ELEMENTS = ("img src=x onerror", "svg onload", "body onload", "input autofocus onfocus", "details open ontoggle",
             "video src=x onerror", "audio src=x onerror", "iframe onload", "marquee onstart",
             "select autofocus onfocus", "object data=x onerror", "math onmouseover")  # fmt: skip
_BREAKS = ("", '">', "'>", "</title>", "</textarea>", "</script>", "-->", "</style>")
_OTHERS = (
    f"<script>{_RUN}</script>",
    f"<script >{_RUN}</script >",
    f"</script><script>{_RUN}</script>",
    f"<scr<script>ipt>{_RUN}</scr</script>ipt>",
    f'<a href="javascript:{_RUN}">x</a>',
    f"[x](javascript:{_RUN})",
    f"[x](JaVaScRiPt:{_RUN})",
    f"[x](data:text/html,<script>{_RUN}</script>)",
    f'![x](x" onerror="{_RUN})',
    f"<javascript:{_RUN}>",
    "{{ ''.__class__.__mro__ }}",
    "{% raw %}{{ 7 * 7 }}{% endraw %}",
    f"<svg><script>{_RUN}</script></svg>",
    f"<svg><animate onbegin={_RUN} attributeName=x dur=1s>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={_RUN}>",
    f'<form><button formaction="javascript:{_RUN}">x',
    f'<meta http-equiv=refresh content="0;url=javascript:{_RUN}">',
    f'<base href="javascript:{_RUN}//">',
    f'<link rel=stylesheet href="data:text/css,*{{x:1}}" onload={_RUN}>',
    f'<iframe srcdoc="<script>parent.{_RUN}</script>"></iframe>',
    f'" autofocus onfocus={_RUN} x="',
    f"' autofocus onfocus={_RUN} x='",
    f"<<img src=x onerror={_RUN}>",
    f"<img/src=x/onerror={_RUN}>",
    f"&lt;img src=x onerror={_RUN}&gt;",
    f"\u003cimg src=x onerror={_RUN}\u003e",
)  # fmt: skip
PAYLOADS = [f"{broken}<{element}={_RUN}>" for broken, element in product(_BREAKS, _ELEMENTS)] + list(_OTHERS)
