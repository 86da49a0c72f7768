// The viewer: two pictures under one slider, zoom, a map over the result, a box to be drawn.
// `element`, `props`, `trigger` and `watch` are Gradio's. The template never changes; what is in it is set here.
const NAMES = {
  none: ["none", ""],
  difficulty: ["difficulty", "Difficulty: dark places were easy to restore, light ones hard."],
  steps: ["steps", "Steps: the lighter a place, the more work went into it."],
  invention_low: ["invention, colours", "Invention: how far colours and large shapes left the plain restoration; dark: not at all."],
  invention_high: ["invention, texture", "Invention: how much fine texture is made up; dark: none."],
};
let zoom = 1, cut = 0.5, drawing = false, start = null, box = null, shown = null, scrolled = { left: 0, top: 0 };
const $ = (name) => element.querySelector(".ps-" + name);
const size = () => ({ w: shown.width, h: shown.height });  // of the small picture

function layout() {
  if (!shown) return;
  const stage = $("stage"), canvas = $("canvas"), { w, h } = size();
  const room = { w: stage.clientWidth || 300, h: window.innerHeight * 0.68 };
  const base = Math.min(room.w, (room.h * w) / h);
  const width = Math.round(base * zoom), height = Math.round((width * h) / w);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  canvas.classList.toggle("pixels", width * devicePixelRatio > 3.5 * shown.full);
  stage.classList.toggle("zoomed", zoom > 1);
  stage.classList.toggle("drawing", drawing);
  $("zoom").textContent = zoom === 1 ? "fit" : Math.round((100 * width * devicePixelRatio) / shown.full) + " %";
  slide();
}

function slide() {
  const stage = $("stage"), canvas = $("canvas");
  const visible = Math.min(stage.clientWidth, canvas.clientWidth);
  const x = Math.min(canvas.clientWidth, stage.scrollLeft + cut * visible);
  for (const name of ["after", "map"]) $(name).style.clipPath = `inset(0 0 0 ${x}px)`;
  $("line").style.left = x - 1 + "px";
  const mark = $("box"), { w, h } = size();
  mark.hidden = !box;
  if (box) {
    mark.style.left = (100 * box.x) / w + "%";
    mark.style.top = (100 * box.y) / h + "%";
    mark.style.width = (100 * box.width) / w + "%";
    mark.style.height = (100 * box.height) / h + "%";
  }
}

function zoomTo(value) {
  const stage = $("stage"), canvas = $("canvas");
  const most = Math.max(8, (8 * shown.full) / Math.max(1, canvas.clientWidth / zoom));
  const old = zoom, x = stage.scrollLeft + stage.clientWidth / 2, y = stage.scrollTop + stage.clientHeight / 2;
  zoom = Math.min(most, Math.max(1, value));
  layout();
  stage.scrollLeft = (x * zoom) / old - stage.clientWidth / 2;
  stage.scrollTop = (y * zoom) / old - stage.clientHeight / 2;
  slide();
}

function show() {
  const value = props.value || null;
  $("empty").hidden = !!value;
  $("full").hidden = !value;
  if (!value) { shown = null; return; }
  const same = shown && shown.name === value.name;
  shown = value;
  $("before").src = value.before.url;
  $("after").src = value.after.url;
  $("before").alt = `${value.name} before, ${value.width} by ${value.height} pixels`;
  $("after").alt = `${value.name} after, ${value.full} by ${value.full_height} pixels`;
  const choice = $("map-choice"), chosen = choice.value;
  choice.replaceChildren(...Object.keys(NAMES).filter((key) => key === "none" || value[key]).map((key) => new Option(NAMES[key][0], key)));
  if (same && value[chosen]) choice.value = chosen;
  if (!same) { zoom = 1; box = null; }
  map();
  const { left, top } = same ? scrolled : { left: 0, top: 0 };
  layout();
  $("stage").scrollTo(left, top);  // a new picture of the same thing is looked at in the same place
}

function map() {
  const key = $("map-choice").value || "none", image = $("map");
  image.hidden = key === "none";
  if (key !== "none") image.src = shown[key].url;
  $("legend").textContent = NAMES[key][1];
}

function place(event) {
  const edge = $("canvas").getBoundingClientRect();
  return { x: (event.clientX - edge.left) / edge.width, y: (event.clientY - edge.top) / edge.height };
}

function follow(event) {
  const at = place(event), { w, h } = size();
  if (!drawing) {
    const stage = $("stage"), visible = Math.min(stage.clientWidth, $("canvas").clientWidth);
    cut = Math.min(1, Math.max(0, (at.x * $("canvas").clientWidth - stage.scrollLeft) / visible));
    $("cut").value = Math.round(100 * cut);
  } else {
    const clamp = (v) => Math.min(1, Math.max(0, v));
    const [x0, x1] = [clamp(start.x), clamp(at.x)].sort((a, b) => a - b).map((v) => v * w);
    const [y0, y1] = [clamp(start.y), clamp(at.y)].sort((a, b) => a - b).map((v) => v * h);
    const x = Math.min(w - 1, Math.floor(x0)), y = Math.min(h - 1, Math.floor(y0));
    box = { x, y, width: Math.max(1, Math.ceil(x1) - x), height: Math.max(1, Math.ceil(y1) - y) };
  }
  slide();
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !shown) return;
  const how = button.dataset.zoom;
  if (how === "in") zoomTo(zoom * 1.5);
  if (how === "out") zoomTo(zoom / 1.5);
  if (how === "fit") zoomTo(1);
  if (how === "pixels") zoomTo((zoom * shown.full) / devicePixelRatio / $("canvas").clientWidth);
  if (button.classList.contains("ps-draw")) {
    drawing = !drawing;
    button.setAttribute("aria-pressed", String(drawing));
    layout();
  }
});
element.addEventListener("input", (event) => {
  if (event.target.classList.contains("ps-cut")) { cut = event.target.value / 100; slide(); }
});
element.addEventListener("change", (event) => {
  if (event.target.classList.contains("ps-map-choice")) map();
});
element.addEventListener("keydown", (event) => {
  if (!shown || !event.target.classList.contains("ps-stage")) return;
  if (event.key === "+" || event.key === "=") zoomTo(zoom * 1.5);
  if (event.key === "-") zoomTo(zoom / 1.5);
  if (event.key === "0") zoomTo(1);
});
element.addEventListener("wheel", (event) => {
  if (!shown || !event.ctrlKey || !event.target.closest(".ps-stage")) return;
  event.preventDefault();
  zoomTo(zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
}, { passive: false });
element.addEventListener("pointerdown", (event) => {
  if (!shown || !event.target.closest(".ps-canvas") || event.button !== 0) return;
  if (event.pointerType === "touch" && zoom > 1 && !drawing) return;  // it scrolls
  start = place(event);
  event.target.closest(".ps-canvas").setPointerCapture(event.pointerId);
  follow(event);
});
element.addEventListener("pointermove", (event) => { if (start) follow(event); });
for (const end of ["pointerup", "pointercancel"]) {
  element.addEventListener(end, () => {
    if (start && drawing && box) trigger("box", box);
    start = null;
  });
}
element.addEventListener("scroll", () => {
  const stage = $("stage");
  if (!shown || !$("canvas").clientWidth) return;
  scrolled = { left: stage.scrollLeft, top: stage.scrollTop };
  slide();
}, true);
new ResizeObserver(layout).observe(element);
watch("value", show);
show();
