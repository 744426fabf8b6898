"""The style sheet of the page: light and dark, for narrow and wide screens, without external resources."""

CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1b2430;--soft:#586474;--edge:#dde2e8;--a:#2563c9;
--b:#c2410c;--c:#6b7280;--d:#7c3aed;--good:#15713d;--good-back:#d9f2e2;--bar:#e3eaf5;--mark:#fde9b8;--mark-text:#4a3500}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--card:#1a2029;--text:#e6ebf1;--soft:#9aa7b6;--edge:#2e3743;
--a:#7fb0ff;--b:#ff9d66;--c:#a3adba;--d:#c4a7ff;--good:#7fdca3;--good-back:#173825;--bar:#263347;--mark:#4d3d12;--mark-text:#ffe2a0}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:32px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 4px}
h2{font-size:1.25rem;margin:44px 0 4px}
h3{font-size:1rem;margin:0}
h3 span{font-weight:400;color:var(--soft)}
p{margin:4px 0 12px;max-width:72ch}
.soft,.note,footer{color:var(--soft)}
.warn{border-left:4px solid var(--b);padding:6px 12px;background:var(--card)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,160px),1fr));gap:14px;margin:20px 0 0}
.tiles div,.chart,.example,.table,details{background:var(--card);border:1px solid var(--edge);border-radius:10px}
.tiles div{padding:14px 16px}
.tiles dt{color:var(--soft);font-size:.875rem}
.tiles dd{margin:2px 0 0;font-size:1.45rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.25}
.tiles dd small{display:block;font-size:.875rem;font-weight:400;color:var(--soft)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px;margin-top:14px}
.chart{margin:0;padding:14px 16px 8px;min-width:0}
.chart svg{display:block;width:100%;height:auto;margin-top:6px}
.chart text{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
.chart .rule{stroke:var(--edge);stroke-width:1;fill:none}.chart .axis{stroke:var(--soft);stroke-width:1;fill:none}
.chart .mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3;fill:none}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
g.a .line{stroke:var(--a)}g.b .line{stroke:var(--b)}g.d .line{stroke:var(--d)}
g.c .line{stroke:var(--c);stroke-dasharray:6 4}
g.a circle{fill:var(--a)}g.b circle{fill:var(--b)}g.d circle{fill:var(--d)}g.c circle{fill:var(--c)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:2px 0 0;padding:0;font-size:.875rem;
color:var(--soft)}
.legend li::before{content:"";display:inline-block;width:18px;border-top:3px solid;margin-right:6px;
vertical-align:middle}
.legend .a::before{color:var(--a)}.legend .b::before{color:var(--b)}.legend .d::before{color:var(--d)}
.legend .c::before{color:var(--c);border-top-style:dashed}
.examples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:14px;margin-top:14px}
.example{padding:14px 16px;min-width:0}
.example p{margin:0 0 2px}.example .soft{font-size:.8125rem;margin-bottom:8px}
mark{background:var(--mark);color:var(--mark-text);border-radius:4px;padding:0 4px;font-weight:600}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:.875rem;padding:0 0 6px}
th,td{text-align:left;vertical-align:top;padding:6px 8px 6px 0;border-top:1px solid var(--edge)}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:.875rem}
th[scope=row]{font-weight:600}
th{overflow-wrap:break-word}
td.number,th.number{text-align:right}td.number{white-space:nowrap}
.table{padding:14px 16px;margin-top:14px;overflow-x:auto}
.words{table-layout:fixed}
.words caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.words th,.words td{width:50%;border-top:0;padding:2px 8px 2px 0}
.word{display:flex;justify-content:space-between;gap:8px;padding:2px 8px;border-radius:5px;
background:linear-gradient(90deg,var(--bar) var(--share),transparent var(--share))}
.word.right{background:linear-gradient(90deg,var(--good-back) var(--share),transparent var(--share));color:var(--good);
font-weight:600;outline:1px solid var(--good)}
.word span:last-child{color:var(--soft);font-weight:400;white-space:nowrap}
.count{font-size:.875rem;margin:8px 0 0!important}
details{padding:12px 16px;margin-top:14px}
summary{cursor:pointer;font-weight:600}
pre{white-space:pre-wrap;font-size:.8125rem;margin:10px 0 0}
footer{padding:40px 20px 48px;font-size:.875rem}
@media (max-width:480px){main,header,footer{padding-left:12px;padding-right:12px}h1{font-size:1.4rem}
.tiles dd{font-size:1.05rem}.tiles div{padding:10px 12px}.chart,.example,.table{padding-left:12px;padding-right:12px}
.words{font-size:.875rem}.words th,.words td{padding-right:4px}.word{padding:2px 4px;gap:4px}}
@media print{body{background:#fff}.chart,.example{break-inside:avoid}}
"""
