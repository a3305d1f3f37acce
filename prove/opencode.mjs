// Runs opencode-mem0-selfhost outside OpenCode: one JSON command per line in, one answer per line out.
//
//   {"open": "name", "environment": {…}}                a session of the plugin with these settings
//   {"on": "name", "tool": "add_memory", "args": {…}}    the tool's answer, parsed
//   {"on": "name", "hook": "chat.message", "input": {…}, "output": {…}}   the changed output
//
// An answer is {"value": …} or {"error": "what the agent would see"}.
// Usage: node opencode.mjs <path of the plugin's dist/index.js>

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { default: plugin } = await import(pathToFileURL(process.argv[2]).href);
const sessions = new Map();
const logged = [];

// What OpenCode hands to a plugin: a shell that knows no git repository, and a place for log lines.
const shell = () => ({ quiet: () => Promise.reject(new Error("not a git repository")) });
const client = { app: { log: async (entry) => logged.push(entry.body) } };

async function open({ open: name, environment }) {
  Object.assign(process.env, environment);
  const directory = process.cwd();
  const hooks = await plugin({ $: shell, client, directory, worktree: directory, project: {} });
  sessions.set(name, hooks);
  return { tools: Object.keys(hooks.tool ?? {}), hooks: Object.keys(hooks), logged };
}

async function run(command) {
  if (command.open) return open(command);
  const hooks = sessions.get(command.on);
  if (command.hook) {
    await hooks[command.hook](command.input ?? {}, command.output);
    return command.output;
  }
  const { args: schema, execute } = hooks.tool[command.tool];
  for (const [name, type] of Object.entries(schema)) type.parse(command.args[name]);
  const unknown = Object.keys(command.args).filter((name) => !(name in schema));
  if (unknown.length) throw new Error(`${command.tool} has no argument ${unknown}`);
  const answer = await execute(command.args, { sessionID: command.on });
  return answer === undefined ? null : JSON.parse(answer);
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: await run(JSON.parse(line)) };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
