// Prints what the core costs on the wire: every module that index.js reaches, comments and white space stripped,
// concatenated, private names shortened, gzipped at level 9. Other names stay: a real minifier makes it smaller still.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import ts from "typescript";

/** @returns {{ files: string[], gzipped: number }} */
export function measure(entry = fileURLToPath(new URL("../src/index.js", import.meta.url))) {
  const seen = new Set([entry]);
  let code = "";
  for (const file of seen) {
    const source = readFileSync(file, "utf8");
    for (const [, path] of source.matchAll(/^(?:im|ex)port [^;]*?"(\.[^"]+)";/gm)) seen.add(fileURLToPath(new URL(path, "file://" + file)));
    const { outputText } = ts.transpileModule(source, { compilerOptions: { target: ts.ScriptTarget.ESNext, module: ts.ModuleKind.ESNext, removeComments: true } });
    // As a bundle has them: no imports, no re-exports.
    code += outputText.replace(/^(?:import|export) [^;]*?"\.[^"]+";\n/gm, "").replace(/^export /gm, "").replace(/("[^"\n]*"|`[^`]*`)|\s*([{}()[\]=;,:?<>+*&|!])\s*|(\s)\s+/g, "$1$2$3");
  }
  /** @type {Map<string, string>} */
  const short = new Map();
  code = code.replace(/(?<=\.|[;{}]|async |get )#(\w+)/g, (_, name) => {
    if (!short.has(name)) short.set(name, "#" + short.size.toString(36));
    return short.get(name);
  });
  return { files: [...seen], gzipped: gzipSync(code, { level: 9 }).length };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { files, gzipped } = measure();
  console.log(`core: ${files.length} modules, ${gzipped} bytes gzipped (comments and white space stripped, private names shortened)`);
}
