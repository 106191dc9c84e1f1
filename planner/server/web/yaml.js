// A scenario from the server as YAML text, for editing one whose text this browser never had.

const PLAIN = /^[A-Za-z_][\w./-]*(?: [\w./-]+)*$/u; // needs no quotes
const WORDS = /^(?:true|false|null|yes|no|on|off|y|n|~)$/iu; // YAML would not read these as text

/** YAML text of plain data; fields that are null are left out, as the schema's defaults are. */
export function yaml(value) {
  return `${block(value, 0).replace(/^\n/u, "")}\n`;
}

function block(value, depth) {
  const pad = "  ".repeat(depth);
  if (Array.isArray(value)) {
    if (value.every((item) => item === null || typeof item !== "object")) return ` [${value.map(scalar).join(", ")}]`;
    return value.map((item) => `\n${pad}- ${block(item, depth + 1).trimStart()}`).join("");
  }
  if (value !== null && typeof value === "object") {
    const fields = Object.entries(value).filter(([, field]) => field !== null && !empty(field));
    return fields.map(([name, field]) => `\n${pad}${scalar(name)}:${block(field, depth + 1)}`).join("");
  }
  return ` ${scalar(value)}`;
}

function empty(value) {
  return typeof value === "object" && !Array.isArray(value) && Object.values(value).every((field) => field === null);
}

function scalar(value) {
  if (typeof value !== "string") return String(value);
  return PLAIN.test(value) && !WORDS.test(value) ? value : JSON.stringify(value);
}
