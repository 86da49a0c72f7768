// Names and keys for the handle between before and after, which Gradio gives neither.
() => {
  const move = (handle, x, y) => {
    const send = (target, type, x) =>
      target.dispatchEvent(
        new MouseEvent(type, { view: window, bubbles: true, clientX: x, clientY: y }),
      );
    const from = handle.getBoundingClientRect();
    send(handle, "mousedown", from.x + from.width / 2);
    send(window, "mousemove", x);
    send(window, "mouseup", x);
  };
  const onKey = (event) => {
    const handle = event.currentTarget.querySelector(".icon-wrap") ?? event.currentTarget;
    const stage = document.querySelector("#view .slider-wrap").getBoundingClientRect();
    const box = handle.getBoundingClientRect();
    const x = box.x + box.width / 2;
    const step = stage.width / 20;
    const places = {
      ArrowLeft: x - step,
      ArrowRight: x + step,
      Home: stage.left + 1,
      End: stage.right - 1,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    const to = Math.min(Math.max(places[event.key], stage.left + 1), stage.right - 1);
    move(handle, to, box.y + box.height / 2);
    const share = Math.round(((to - stage.left) / stage.width) * 100);
    event.currentTarget.setAttribute("aria-valuenow", share);
  };
  const name = () => {
    const handle = document.querySelector("#view [data-testid=slider]");
    if (!handle || handle.getAttribute("role") === "slider") return;
    const images = document.querySelectorAll("#view img");
    images[0]?.setAttribute("alt", "Before");
    images[1]?.setAttribute("alt", "After");
    const names = { role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": 100 };
    names["aria-valuenow"] = 50;
    names["aria-label"] = "Line between before and after";
    for (const [key, value] of Object.entries(names)) handle.setAttribute(key, value);
    handle.addEventListener("keydown", onKey);
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}
