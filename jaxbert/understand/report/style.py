"""The style of the page and its only script: light, dark, narrow and on paper; the script sorts tables."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b2530; --paper: #fff; --soft: #f2f5f8; --line: #d3dae1; --faint: #566371;
  --first: #1f66b0; --second: #b8520a; --good: #16713f; --bad: #b0221a;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e3e9ee; --paper: #11161c; --soft: #1b222a; --line: #37424e; --faint: #9eabb8;
    --first: #74b6f4; --second: #f0a25e; --good: #5dc78d; --bad: #ff8f85;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { margin: .4rem 0; }
a { color: var(--first); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; }
.note, figcaption { color: var(--faint); font-size: .9rem; }
.lead { font-size: 1.15rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; margin: .4rem 0; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; }
td.number, th.number { text-align: right; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
th button {
  font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-decoration: underline dotted;
}
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.text { max-width: 34rem; overflow-wrap: anywhere; }
.text { white-space: pre-wrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
.charts:has(> :nth-child(4):last-child) { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.charts > figure { max-width: 32rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
.interval { width: 11rem; }
.interval line { stroke: var(--line); }
.interval .found { stroke: var(--first); stroke-width: 3; }
.interval circle { fill: var(--first); }
td.right { color: var(--good); }
td.wrong { color: var(--bad); }
svg text { font-family: inherit !important; }
.heat th, .heat td { padding: .15rem .35rem; border: 1px solid var(--line); text-align: right; font-size: .8rem; }
.heat th { font-weight: 400; color: var(--faint); }
.heat td { background: color-mix(in srgb, var(--of) calc(var(--s) * 75%), var(--paper)); }
.heat thead th { vertical-align: bottom; text-align: left; }
.heat th.up span { writing-mode: vertical-rl; max-height: 9rem; overflow: hidden; }
.bar { display: inline-block; width: 8rem; height: .7em; background: var(--soft); }
.bar i { display: block; height: 100%; background: var(--first); width: var(--w); }
.row { display: flex; height: 1.1rem; margin: 2px 0; }
.row { background: repeating-linear-gradient(45deg, var(--soft) 0 4px, var(--line) 4px 5px); }
.row i { background: var(--first); border-right: 1px solid var(--paper); width: var(--w); flex: none; }
.row i:nth-child(even) { background: color-mix(in srgb, var(--first) 60%, var(--paper)); }
mark { color: inherit; background: none; border-bottom: 3px solid var(--good); padding: 0 1px; }
mark.wrong { border-bottom: 3px dashed var(--bad); }
mark.missed { border-bottom: 3px dotted var(--second); }
mark b { font-size: .7rem; font-weight: 600; color: var(--faint); margin-left: .2em; }
pre { background: var(--soft); padding: .7rem; white-space: pre-wrap; }
.item { border-left: 3px solid var(--line); padding: .1rem 0 .1rem .7rem; margin: .8rem 0; }
.item p { margin: .1rem 0; }
@media (max-width: 32rem) {
  th, td { padding-right: .45rem; }
  table { font-size: .8rem; }
  .bar { width: 4rem; }
}
@media print {
  body { max-width: none; font-size: 10pt; }
  nav { display: none; }
  figure, .item, tr { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  th button { text-decoration: none; }
}
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rises = head.getAttribute("aria-sort") !== "ascending", sign = rises ? 1 : -1;
      const text = row => row.cells[column].textContent;
      const number = row => parseFloat(text(row).replace(/[,%]/g, ""));
      const compare = head.classList.contains("number")
        ? (a, b) => number(a) - number(b) : (a, b) => text(a).localeCompare(text(b));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rises ? "ascending" : "descending");
      [...body.rows].sort((a, b) => sign * compare(a, b)).forEach(row => body.append(row));
    });
  });
}
"""

WORD_STYLE = """\
:root { --for: 22, 132, 60; --against: 200, 40, 60; --deepest: 0.42; }
@media screen and (prefers-color-scheme: dark) { :root { --for: 46, 160, 90; --against: 225, 75, 90; --deepest: 0.55; } }
.w { color: var(--ink); border-radius: 0.2em; padding: 0.1em 0; border-bottom: 2px solid transparent; }
.f { background: rgba(var(--for), calc(var(--a) * var(--deepest))); border-bottom: 2px solid rgb(var(--for)); }
.g { background: rgba(var(--against), calc(var(--a) * var(--deepest))); border-bottom: 2px dashed rgb(var(--against)); }
"""
"""The style of coloured words; the page's own style sets `--ink`."""
