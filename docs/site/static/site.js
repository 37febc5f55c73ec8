// A slider above the pictures of an explorer. Without this script, the picture of the start shows.
for (const box of document.querySelectorAll(".tc-frames")) {
  const frames = [...box.querySelectorAll(".tc-frame")]
  if (frames.length < 2) continue
  const line = document.createElement("label")
  line.className = "tc-frames-control"
  const name = document.createElement("span")
  name.textContent = box.dataset.control
  const slider = document.createElement("input")
  Object.assign(slider, { type: "range", min: 0, max: frames.length - 1, step: 1 })
  slider.value = frames.findIndex((frame) => !frame.hidden)
  const shown = document.createElement("output")
  const move = () => {
    frames.forEach((frame, place) => { frame.hidden = place !== Number(slider.value) })
    shown.textContent = frames[slider.value].dataset.value
    slider.setAttribute("aria-valuetext", shown.textContent)
  }
  slider.addEventListener("input", move)
  line.append(name, slider, shown)
  box.prepend(line)
  move()
}

// What scrolls sideways is reached by the keyboard.
for (const box of document.querySelectorAll(".cell_output, pre, .table-wrapper")) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
}

// What the theme leaves without a name or a level, for those who hear the page.
for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2")
document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "All pages")
document.querySelector(".toc-drawer")?.setAttribute("aria-label", "This page")
if (!document.querySelector("h1")) {
  const title = document.createElement("h1")
  title.textContent = document.title.split(" - ")[0]
  document.querySelector("article")?.prepend(title)
}
for (const head of document.querySelectorAll("th")) {
  if (!head.textContent.trim()) head.replaceWith(document.createElement("td"))
}
