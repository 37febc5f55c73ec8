// The keyboard in the controls of a cell's output.
//
// JupyterLab's shortcuts would delete the cell at "d d", and leave the choices at an arrow key, so the controls keep
// their keys; only to run the cell and to save stay JupyterLab's. It has just its active cell in the order of Tab: from
// the last control, Tab would leap over the following cells to the next link that there is, so it goes to the next cell.
// Escape goes back to the cell itself.

function keepKeys(root) {
  const stops = "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1'])"
  const seen = (element) => element.getClientRects().length > 0

  const isLast = (control) => {
    const all = [...root.querySelectorAll(stops)].filter((each) => seen(each) && !each.disabled)
    const group = control.type === "radio" ? control.name : null
    return all.slice(all.indexOf(control) + 1).every((each) => group && each.type === "radio" && each.name === group)
  }

  root.dataset.lmSuppressShortcuts = "true"
  root.addEventListener("keydown", (event) => {
    event.stopPropagation()
    const command = event.ctrlKey || event.metaKey
    const cell = root.closest(".jp-Cell")
    if ((event.key === "Enter" && (command || event.shiftKey)) || (command && event.code === "KeyS")) {
      event.preventDefault()
      root.parentElement.dispatchEvent(new KeyboardEvent("keydown", event))
    } else if (event.key === "Escape") {
      cell?.focus()
    } else if (event.key === "Tab" && !event.shiftKey && cell && isLast(event.target)) {
      const cells = [...cell.closest(".jp-Notebook").querySelectorAll(".jp-Cell")].filter(seen)
      const next = cells[cells.indexOf(cell) + 1]
      if (!next) return
      event.preventDefault()
      next.focus()
    }
  })
}

