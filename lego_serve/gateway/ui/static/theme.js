// Runs before the first paint, so that no page flashes in the other theme.
try {
  const chosen = localStorage.getItem("lego.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; the system's theme holds.
}
