// Stage, bar and time left. Only the stage is spoken: a count that changes four times a second would not let up.
const $ = (name) => element.querySelector(".ps-" + name);
function show() {
  const value = props.value || { stage: "", count: "", share: null };
  $("progress").hidden = value.share === null;
  if (value.share !== null) $("progress").value = value.share;
  if ($("stage-name").textContent !== value.stage) $("stage-name").textContent = value.stage;
  $("count").textContent = value.count;
  $("stage-name").classList.toggle("failed", !!value.failed);
}
watch("value", show);
show();
