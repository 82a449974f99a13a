"""The style sheet and the skeleton of ``report.html``, which loads nothing from outside."""

from string import Template

STYLE = """
:root { --ink:#1c1f26; --soft:#5d6675; --line:#e2e5ea; --page:#f7f8fa; --card:#fff; --lego:#d9482b;
  --baseline:#93a1b5; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e9ecf1; --soft:#9aa5b5; --line:#2c333e; --page:#13161b; --card:#1b2027; --lego:#ff7a5c;
  --baseline:#66758c; }
}
* { box-sizing:border-box } body { margin:0; background:var(--page); color:var(--ink); line-height:1.5;
  font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; }
main { max-width:60rem; margin:0 auto; padding:2.5rem 1.25rem 4rem }
h1 { font-size:1.9rem; line-height:1.2; margin:0 0 .25rem } h2 { font-size:1.1rem; margin:0 0 .75rem }
p { margin:.25rem 0 1rem; color:var(--soft) } p strong { color:var(--ink) }
section > p:last-child { margin-bottom:0 }
section { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:1.25rem 1.5rem;
  margin-top:1.25rem }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(11rem,1fr)); gap:1rem; margin-top:1.5rem }
.tile { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:1rem 1.25rem }
.tile b { display:block; font-size:2rem; line-height:1.15; font-variant-numeric:tabular-nums }
.tile span { color:var(--soft) }
.tile.main b { color:var(--lego) }
svg { width:100%; height:auto; display:block } svg text { font-size:13px; fill:var(--ink); dominant-baseline:central }
svg .label { text-anchor:end; fill:var(--soft) } svg .axis { stroke:var(--line) }
svg .tick { text-anchor:middle; fill:var(--soft) }
svg .grid { stroke:var(--line); stroke-width:1 } svg .mark { stroke:var(--soft); stroke-dasharray:4 4 }
svg .curve { fill:none; stroke-width:2 } svg .curve.lego { stroke:var(--lego) }
svg .curve.baseline { stroke:var(--baseline) }
svg .whisker { stroke:var(--ink); stroke-width:1.4; fill:none; opacity:.65 }
.lego { fill:var(--lego) } .baseline { fill:var(--baseline) }
.scroll { overflow-x:auto } table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th, td { text-align:left; padding:.35rem .75rem .35rem 0; border-bottom:1px solid var(--line); vertical-align:top }
th { color:var(--soft); font-weight:500 } tr:last-child > * { border-bottom:0 } td { overflow-wrap:anywhere }
.images { display:grid; grid-template-columns:repeat(auto-fill,minmax(13rem,1fr)); gap:1.25rem }
figure { margin:0 } figure div { display:flex; gap:.4rem } figure img { width:50%; border-radius:8px;
  border:1px solid var(--line) }
.wide { width:100% }
figcaption { font-size:.85rem; color:var(--soft); margin-top:.35rem }
code { background:var(--page); border:1px solid var(--line); border-radius:6px; padding:.1rem .4rem;
  overflow-wrap:anywhere }
.key i { display:inline-block; width:.8rem; height:.8rem; border-radius:3px; margin:0 .3rem 0 1rem;
  vertical-align:-.05rem }
"""

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>lego_serve: suite $suite</title><style>$style</style></head><body><main>
<h1>$title</h1>
<p>$lead</p>
<p class="key">Colours:<i style="background:var(--lego)"></i>lego_serve over HTTP
<i style="background:var(--baseline)"></i>$baseline</p>
<div class="tiles">$tiles</div>
$sections
</main></body></html>
""")
