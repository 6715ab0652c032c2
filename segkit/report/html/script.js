"use strict";
// Without this script the page shows all that it has; with it the tables sort, the matrix tells its
// counts, and two layers of an image lie on each other.
document.documentElement.classList.add("js");
const find = (selector, home = document) => [...home.querySelectorAll(selector)];

for (const table of find("table.sortable")) {
  const heads = find("thead th", table);
  heads.forEach((head, column) => {
    if (head.classList.contains("plain")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what is not defined comes last
        return sign * (column ? x - y : x.localeCompare(y));
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    });
  });
}

const matrix = document.getElementById("matrix");
const { classes, counts } = JSON.parse(document.getElementById("matrix-data").textContent);
const rowSums = counts.map((row) => row.reduce((a, b) => a + b, 0));
const columnSums = classes.map((_, column) => counts.reduce((sum, row) => sum + row[column], 0));
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(2)} %` : "-");
const cellAt = (row, column) => matrix.tBodies[0].rows[row].cells[column + 1];
const placeOf = (cell) => [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];
let current = cellAt(0, 0);
current.tabIndex = 0;

function tell(cell) {
  const [row, column] = placeOf(cell);
  const count = counts[row][column];
  document.getElementById("cell-text").textContent =
    `true ${classes[row]}, predicted ${classes[column]}: ${count.toLocaleString("en")} pixels, ` +
    `${share(count, rowSums[row])} of true ${classes[row]}, ` +
    `${share(count, columnSums[column])} of predicted ${classes[column]}`;
  find(".here", matrix).forEach((head) => head.classList.remove("here"));
  matrix.tBodies[0].rows[row].cells[0].classList.add("here");
  matrix.tHead.rows[0].cells[column + 1].classList.add("here");
}
function cellOf(event) {
  const cell = event.target.closest("td");
  return cell && matrix.tBodies[0].contains(cell) ? cell : null;
}
let mouse = "";
matrix.addEventListener("pointerover", (event) => {
  const place = `${event.screenX} ${event.screenY}`; // the same if it was the page that moved
  if (place !== mouse && cellOf(event)) tell(cellOf(event));
  mouse = place;
});
matrix.addEventListener("focusin", (event) => cellOf(event) && tell(cellOf(event)));
matrix.addEventListener("click", (event) => cellOf(event) && goTo(cellOf(event)));
matrix.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step || !cellOf(event)) return;
  event.preventDefault();
  const clip = (value) => Math.min(Math.max(value, 0), classes.length - 1);
  const [row, column] = placeOf(current);
  goTo(cellAt(clip(row + step[0]), clip(column + step[1])));
});
function goTo(cell) {
  current.tabIndex = -1;
  current = cell;
  current.tabIndex = 0;
  current.focus();
}

const cards = find(".card");
function choose() {
  for (const side of ["left", "right"]) {
    const layer = document.getElementById(side).value;
    for (const figure of find(".layers figure")) {
      figure.classList.toggle(side, figure.dataset.layer === layer);
    }
  }
}
function filter() {
  const group = document.getElementById("group").value;
  const places = new Map(cards.map((card, index) => {
    const groups = Object.fromEntries(card.dataset.groups.trim().split(" ").map((g) => g.split(":")));
    return [card, group ? Number(groups[group] ?? 0) : index + 1];
  }));
  cards.forEach((card) => (card.hidden = !places.get(card)));
  const shown = cards.filter((card) => !card.hidden).sort((a, b) => places.get(a) - places.get(b));
  document.querySelector(".cards").append(...shown);
  document.getElementById("shown").textContent = `${shown.length} of ${cards.length} images`;
}
if (cards.length) {
  for (const slider of find(".layers input")) {
    const move = () => slider.parentElement.style.setProperty("--cut", `${slider.value}%`);
    slider.addEventListener("input", move);
    move(); // a browser may have kept the place from an earlier visit
  }
  for (const side of ["left", "right"]) document.getElementById(side).addEventListener("change", choose);
  document.getElementById("group").addEventListener("change", filter);
  choose();
  filter();
}

addEventListener("beforeprint", () => find("details").forEach((one) => (one.open = true)));
