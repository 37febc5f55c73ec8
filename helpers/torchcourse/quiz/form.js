// A form in the page of a notebook: it shows the parts that Python renders (see form.py), tells Python what its reader
// chooses, and keeps the keys to itself.

// Milliseconds without a word from Python after which the form says that nothing is kept yet.
const PATIENCE = 5000
// Milliseconds after the last letter typed until Python hears of it.
const TYPING = 250

function render({ model, el }) {
  const form = document.createElement("form")
  form.className = "tc-card"
  form.autocomplete = "off"
  const all = form.appendChild(document.createElement("fieldset"))
  all.className = "tc-all"
  el.append(form)

  const shown = {}
  let values = model.get("values")
  let sent = 0
  let waiting, typing

  const collect = () => {
    const found = {}
    for (const [name, value] of new FormData(form)) (found[name] ??= []).push(value)
    return found
  }

  const fill = (part) => {
    for (const control of part.querySelectorAll("[name]")) {
      const held = values[control.name] ?? []
      if (control.matches("[type=radio], [type=checkbox]")) control.checked = held.includes(control.value)
      else control.value = held[0] ?? ""
    }
  }

  const place = (control) =>
    control.dataset.action
      ? `[data-action="${control.dataset.action}"][value="${control.value}"]`
      : `[name="${control.name}"]${control.type === "radio" || control.type === "checkbox" ? `[value="${control.value}"]` : ""}`

  const update = () => {
    const focused = form.contains(document.activeElement) ? place(document.activeElement) : null
    const parts = model.get("parts")
    for (const [name, html] of Object.entries(parts)) {
      if (shown[name] === html) continue
      let part = all.querySelector(`[data-part="${name}"]`)
      if (!part) {
        part = all.appendChild(document.createElement("div"))
        part.dataset.part = name
      }
      part.innerHTML = shown[name] = html
      fill(part)
    }
    const wrong = form.querySelector(".tc-error") !== null
    for (const field of form.querySelectorAll("[name][aria-describedby]")) field.setAttribute("aria-invalid", wrong)
    all.setAttribute("aria-label", form.querySelector("[data-part=head] .tc-meta").textContent)
    if (focused && !form.contains(document.activeElement)) form.querySelector(focused)?.focus()
  }

  const send = (action, value = "") => {
    clearTimeout(typing)
    values = collect()
    sent += 1
    clearTimeout(waiting)
    waiting = setTimeout(() => form.classList.add("tc-waits"), PATIENCE)
    try {
      model.send({ action, value, values, number: sent })
    } catch {
      lose()
    }
  }

  const lose = () => {
    clearTimeout(waiting)
    form.classList.remove("tc-waits")
    form.classList.add("tc-lost")
    all.disabled = true
  }

  const hear = (message) => {
    if (message.done !== sent) return
    clearTimeout(waiting)
    form.classList.remove("tc-waits")
    if (message.focus) [...form.querySelectorAll('[tabindex="-1"]')].at(-1)?.focus()
  }

  form.addEventListener("input", (event) => {
    clearTimeout(typing)
    if (event.target.matches("textarea, [type=text]")) typing = setTimeout(() => send("input"), TYPING)
    else send("input")
  })
  form.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]")
    if (button) send(button.dataset.action, button.value)
  })
  form.addEventListener("submit", (event) => {
    event.preventDefault()
    send("check")
  })
  keepKeys(form)
  form.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("textarea, [type=text]")) return
    const letter = /^Key[A-H]$/.test(event.code) ? event.code.at(-1) : ""
    const choice = letter && form.querySelector(`[data-letters] [value="${letter}"]:enabled`)
    if (choice) {
      choice.focus()
      choice.click()
    }
  })

  model.on("change:parts", update)
  model.on("msg:custom", hear)
  // ipywidgets tells of a kernel that has gone or come back; to send is to know which.
  model.on("comm_live_update", () => send("ask"))
  update()
  return () => {
    clearTimeout(typing)
    clearTimeout(waiting)
  }
}

export default { render }
