// Texts and colours for people.

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 86400) return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
  if (value >= 3600) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  if (value >= 60) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value >= 1) return `${value.toFixed(1)} s`;
  if (value >= 1e-3) return `${(value * 1e3).toFixed(value >= 0.1 ? 0 : 1)} ms`;
  return value > 0 ? `${Math.round(value * 1e6)} µs` : "0 s";
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], { hour12: false });
}

export function count(value) {
  return value.toLocaleString("en-US");
}

export function money(value) {
  return value === null ? "unknown" : `$${value >= 100 ? value.toFixed(0) : value.toFixed(4)}`;
}

// Distinct in light and dark, and for most colour-blind readers; red is for failures.
const COLOURS = ["#3b7dd8", "#2a9d8f", "#8e63ce", "#d98324", "#5a8f29", "#c2569b", "#4aa3c7", "#7a6a58", "#6673d9", "#9b8a17"];
const places = new Map();

// The first functions that are seen have colours of their own.
export function colour(name) {
  if (!places.has(name)) places.set(name, places.size);
  return COLOURS[places.get(name) % COLOURS.length];
}

export function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  // As text, never as HTML: names and errors come from the programs that are shown.
  if (text !== "") made.textContent = text;
  if (name) made.className = name;
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
