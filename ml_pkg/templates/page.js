"use strict";
const links = () => [...document.querySelectorAll("[data-rows] tbody tr a[data-row]")];
const isTyping = target => target.closest("input[type=text], textarea, select, [contenteditable]");

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const filter = document.getElementById("where");
  if (event.key === "Escape" && event.target === filter) return filter.blur();
  if (isTyping(event.target)) return;
  if (event.key === "/" && filter) { event.preventDefault(); filter.focus(); filter.select(); }
  if (event.key === "j" || event.key === "k") {
    const rows = links(), here = rows.indexOf(document.activeElement.closest?.("tr")?.querySelector("a[data-row]"));
    const next = here < 0 ? (event.key === "j" ? 0 : rows.length - 1) : here + (event.key === "j" ? 1 : -1);
    rows[next]?.focus();
  }
  if (event.key === "x") document.activeElement.closest?.("tr")?.querySelector("input[type=checkbox]")?.click();
});

const ticked = () => document.querySelectorAll("[data-rows] input[type=checkbox]:checked");
const say = text => { const place = document.getElementById("picked"); if (place) place.textContent = text; };
document.addEventListener("change", event => {
  if (event.target.matches?.("[data-rows] input[type=checkbox]")) say(ticked().length ? `${ticked().length} ticked` : "");
});
document.addEventListener("submit", event => {
  if (!event.target.matches("form.compare") || ticked().length === 2) return;
  event.preventDefault();
  say(`Tick two runs to compare: ${ticked().length} ${ticked().length === 1 ? "is" : "are"} ticked.`);
});

const live = document.querySelector("[data-live]");

function replaceRows(table, fresh) {
  const body = table.tBodies[0], isFirst = !body.rows.length, old = new Map([...body.rows].map(row => [row.dataset.run, row]));
  const focused = document.activeElement, focusedRow = focused?.closest?.("tr")?.dataset.run, focusedPart = focused?.dataset?.part;
  if (table.tHead.innerHTML !== fresh.tHead.innerHTML) table.tHead.innerHTML = fresh.tHead.innerHTML;
  table.caption.textContent = fresh.caption.textContent;
  const rows = [...fresh.tBodies[0].rows], kept = new Set(rows.map(row => row.dataset.run));
  for (const row of old.values()) if (!kept.has(row.dataset.run) && !row.querySelector(":checked")) row.remove();
  let current = body.rows[0] ?? null;
  for (const row of rows) {
    let mine = old.get(row.dataset.run);
    if (mine && mine.innerHTML !== row.innerHTML) {
      const isTicked = mine.querySelector("input")?.checked;
      if (mine === current) current = mine.nextElementSibling;
      mine.remove();
      mine = document.importNode(row, true);
      if (isTicked) mine.querySelector("input").checked = true;
    } else if (!mine) {
      mine = document.importNode(row, true);
      if (!isFirst) mine.classList.add("new");
    }
    if (mine === current) current = current.nextElementSibling;
    else body.insertBefore(mine, current);
  }
  if (focusedRow && !document.contains(focused)) body.querySelector(`tr[data-run="${CSS.escape(focusedRow)}"] [data-part="${focusedPart}"]`)?.focus({preventScroll: true});
}

async function look() {
  const pulse = await (await fetch("/pulse")).json();
  document.getElementById("recent").textContent = pulse.words;
  if (pulse.newest === live.dataset.newest) return;
  const answer = await fetch(live.dataset.live);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html"), fresh = page.querySelector("[data-live]");
  const table = live.querySelector("table"), freshTable = fresh.querySelector("table");
  if (table && freshTable) {
    replaceRows(table, freshTable);
    live.querySelector("[data-foot]").replaceChildren(...fresh.querySelector("[data-foot]").childNodes);
  } else live.replaceChildren(...fresh.childNodes);
  live.dataset.newest = fresh.dataset.newest;
}

if (live) {
  const again = async () => {
    if (document.visibilityState === "visible") try { await look(); } catch { document.getElementById("recent").textContent = "ml_pkg ui has ended: this page is as it was then."; }
    setTimeout(again, 2000);
  };
  setTimeout(again, 2000);
}

const showLatest = () => document.querySelectorAll(".scroll > svg.chart").forEach(chart => { chart.parentElement.scrollLeft = chart.parentElement.scrollWidth; }); // time goes to the right
showLatest();

const fresh = document.querySelector("[data-refresh]");

async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html"), next = page.querySelector("[data-refresh]");
  if (!next || next.innerHTML === fresh.innerHTML || fresh.contains(document.activeElement)) return;
  const scrolled = [...fresh.querySelectorAll(".scroll")].map(box => box.scrollLeft);
  fresh.replaceChildren(...next.childNodes);
  fresh.querySelectorAll(".scroll").forEach((box, place) => { box.scrollLeft = scrolled[place] ?? 0; });
}

if (fresh) {
  const again = async () => {
    if (document.visibilityState === "visible") try { await refresh(); } catch { /* the server has ended: the page stays as it was */ }
    setTimeout(again, 1000 * fresh.dataset.refresh);
  };
  setTimeout(again, 1000 * fresh.dataset.refresh);
}
