// The keyboard in the controls of a cell's output.
//
// JupyterLab's shortcuts would delete the cell at "d d", and leave the choices at an arrow key, so the controls keep
// their keys; only to run the cell and to save stay JupyterLab's. It has just its active cell in the order of Tab: from
// the last control, Tab would leap over the following cells to the next link that there is, so it goes to the next cell.
// A cell may show several cards: it ends behind the last of them.
// Escape goes back to the cell itself.

function keepKeys(root) {
  const stops = "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1'])"
  const seen = (element) => element.getClientRects().length > 0

  const isLast = (control, cell) => {
    const all = [...cell.querySelectorAll(".jp-OutputArea")].flatMap((area) => [...area.querySelectorAll(stops)])
    const behind = all.filter((each) => control.compareDocumentPosition(each) & Node.DOCUMENT_POSITION_FOLLOWING)
    const grouped = (each) => control.type === "radio" && each.name === control.name && each.form === control.form
    return behind.every((each) => grouped(each) || each.matches(":disabled") || !seen(each))
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
    } else if (event.key === "Tab" && !event.shiftKey && cell && isLast(event.target, cell)) {
      const cells = [...cell.closest(".jp-Notebook").querySelectorAll(".jp-Cell")].filter(seen)
      const next = cells[cells.indexOf(cell) + 1]
      if (!next) return
      event.preventDefault()
      next.focus()
    }
  })
}

