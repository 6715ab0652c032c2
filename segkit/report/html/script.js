"use strict";
// Without this script the page shows all that it has; with it the tables sort, matrix and plots tell
// their numbers, layers of an image lie on each other, and images enlarge.
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
  for (const side of ["left", "right"]) document.getElementById(side).addEventListener("change", choose);
  document.getElementById("group").addEventListener("change", filter);
  choose();
  filter();
}

// Sliders, those of the enlarged image too.
const move = (slider) => slider.parentElement.style.setProperty("--cut", `${slider.value}%`);
find(".layers input").forEach(move); // a browser may have kept the place from an earlier visit
function blend(slider) {
  document.documentElement.style.setProperty("--blend", slider.value / 100);
  find(".blend").forEach((other) => (other.value = slider.value));
}
find(".blend").slice(0, 1).forEach(blend);
addEventListener("input", ({ target }) => {
  if (target.matches(".layers input")) move(target);
  if (target.matches(".blend")) blend(target);
});

// One image in the whole window: a copy of a card, or of a doubted region.
const viewer = document.getElementById("viewer");
const PICTURES = ".card:not([hidden]), .crops li";
let opened = null;
function view(step) {
  const all = find(opened.matches(".card") ? ".card:not([hidden])" : ".crops li");
  const place = Math.min(Math.max(all.indexOf(opened) + step, 0), all.length - 1);
  opened = all[place];
  document.getElementById("view").replaceChildren(...opened.cloneNode(true).childNodes);
  const crop = viewer.querySelector(".triple img"); // below the masks of its region, to be blended
  find(".triple figure + figure .boxed", viewer).forEach((box) => box.prepend(crop.cloneNode()));
  document.getElementById("place").textContent = `${place + 1} of ${all.length}`;
  // Not disabled: a button that is would lose the focus, and the arrow keys with it.
  document.getElementById("back").ariaDisabled = place === 0;
  document.getElementById("next").ariaDisabled = place === all.length - 1;
}
function enlarge(picture) {
  opened = picture;
  view(0);
  viewer.showModal();
}
if (viewer) {
  let pressed = {};
  addEventListener("pointerdown", ({ clientX, clientY, target }) => {
    pressed = { clientX, clientY, value: target.value };
  });
  addEventListener("click", (event) => {
    const { target } = event;
    const picture = target.closest(".layers, .triple, .enlarge")?.closest(PICTURES);
    if (!picture) return;
    if (target.matches("input")) {
      if (Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) > 4) return;
      target.value = pressed.value; // it was not dragged: the slider stays where it was
      move(target);
    }
    enlarge(picture);
  });
  addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (!viewer.open) {
      if (key !== "Enter" || !target.matches(".layers input")) return;
      event.preventDefault(); // or the button that gets the focus would be pressed as well
      enlarge(target.closest(".card"));
      return;
    }
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!step || target.matches("input")) return;
    event.preventDefault();
    view(step);
  });
  document.getElementById("back").addEventListener("click", () => view(-1));
  document.getElementById("next").addEventListener("click", () => view(1));
  const leave = () => {
    viewer.close();
    let fold = opened.closest("details");
    for (; fold; fold = fold.parentElement.closest("details")) fold.open = true;
    opened.querySelector(".enlarge").focus(); // of the one last seen, not the one first opened
    document.getElementById("view").replaceChildren();
  };
  document.getElementById("close").addEventListener("click", leave);
  viewer.addEventListener("cancel", leave); // Escape
}

// Points of a plot: the nearest one to the pointer, or to walk along with the arrow keys.
for (const plot of find(".plot")) {
  const points = find(".point", plot);
  if (!points.length) continue;
  const text = document.createElement("output");
  text.ariaLive = "polite";
  plot.querySelector("svg").after(text);
  points.forEach((point, place) => point.setAttribute("tabindex", place ? -1 : 0));
  let here = points[0];
  const tellPoint = (point) => {
    here.classList.remove("here");
    here.setAttribute("tabindex", -1);
    here = point;
    here.setAttribute("tabindex", 0);
    here.classList.add("here");
    text.textContent = here.querySelector("title").textContent;
  };
  const middle = (point) => {
    const box = point.querySelector("use").getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const nearest = ({ clientX, clientY }) => {
    const away = points.map(middle).map(([x, y]) => Math.hypot(x - clientX, y - clientY));
    return points[away.indexOf(Math.min(...away))];
  };
  for (const kind of ["pointermove", "pointerdown"]) {
    plot.querySelector("svg").addEventListener(kind, (event) => tellPoint(nearest(event)));
  }
  plot.addEventListener("focusin", (event) => {
    const point = event.target.closest(".point");
    if (point) tellPoint(point);
  });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step || !event.target.closest(".point")) return;
    event.preventDefault();
    points[Math.min(Math.max(points.indexOf(here) + step, 0), points.length - 1)].focus();
  });
}

addEventListener("beforeprint", () => find("details").forEach((one) => (one.open = true)));
