// A server and client of sofa-rpc-node that does what it is told: each line of standard input is a
// command, as for the peers in Java, and is answered with one line of JSON.
'use strict';

const readline = require('node:readline');
const { RpcClient } = require('sofa-rpc-node').client;
const { RpcServer } = require('sofa-rpc-node').server;
const protocol = require('sofa-bolt-node');

// Longer than anything takes.
const PATIENCE_MS = 40000;
// What libraries print is no answer.
const logger = new console.Console(process.stderr);

const rallies = new Map();
const notes = [];
let noted = () => {};

const echo = {
  async say(text) { return text; },
  async slow(milliseconds) {
    await new Promise((resolve) => setTimeout(resolve, Number(milliseconds)));
    return milliseconds;
  },
  async fail(text) { throw new Error(text); },
  async rally(count) {
    const waiting = rallies.get(count) || [];
    rallies.set(count, waiting);
    const all = new Promise((resolve) => waiting.push(resolve));
    if (waiting.length === Number(count)) {
      rallies.delete(count);
      waiting.forEach((resolve) => resolve());
    }
    await all;
    return count;
  },
  async note(text) {
    notes.push(text);
    noted();
    return text;
  },
  async letters(count) { return 'x'.repeat(Number(count)); },
};

// {uniques}: the port.
async function serve({ uniques = '' }) {
  const server = new RpcServer({ logger, port: 0, appName: 'peer' });
  for (const unique of ['', ...uniques.split(',').filter(Boolean)]) {
    server.addService({ interfaceName: 'peer.Echo', uniqueId: unique }, echo);
  }
  await server.start();
  return server.publishPort;
}

async function take({ count = '1' }) {
  while (notes.length < Number(count)) {
    await new Promise((resolve, reject) => {
      noted = resolve;
      setTimeout(() => reject(new Error(`${notes.length} notes`)), PATIENCE_MS).unref();
    });
  }
  return notes.splice(0);
}

const clients = new Map();

// One client, and so one connection, for each address and version of Bolt.
function consumer({ to, unique, version = '1', ver1 = '1', crc = 'off' }) {
  const key = `${to} ${version} ${ver1} ${crc}`;
  if (!clients.has(key)) {
    const encoder = (options) => {
      const made = protocol.encoder(options);
      made.protocolType = version === '1' ? 'bolt' : 'bolt2';
      made.boltVersion = Number(ver1);
      made.crcEnable = crc === 'on';
      return made;
    };
    const spoken = { ...protocol, encoder };
    clients.set(key, new RpcClient({ logger, protocol: spoken, connectionOpts: {
      protocol: spoken, noDelay: true, connectTimeout: PATIENCE_MS,
    } }));
  }
  return clients.get(key).createConsumer({
    interfaceName: 'peer.Echo',
    version: unique ? `1.0:${unique}` : '1.0',
    serverHost: `bolt://${to}`,
    responseTimeout: PATIENCE_MS,
  });
}

async function invoke(words, method, text) {
  const made = consumer(words);
  await made.ready();
  const options = { responseTimeout: Number(words.timeout || PATIENCE_MS) };
  return made.invoke(method, [text], options);
}

const commands = {
  serve,
  notes: take,
  async call(words) {
    const value = await invoke(words, words.method || 'say', words.text || 'hello');
    return words.method === 'letters' ? value.length : value;
  },
  async many(words) {
    const count = words.count || '1000';
    const calls = Array.from({ length: Number(count) }, () => invoke(words, 'rally', count));
    const answers = await Promise.all(calls);
    return answers.filter((answer) => answer === count).length;
  },
};

async function answer(line) {
  const [name, ...rest] = line.split(' ').filter(Boolean);
  const words = {};
  for (const word of rest) {
    const equals = word.indexOf('=');
    words[word.slice(0, equals)] = word.slice(equals + 1);
  }
  try {
    return { value: await commands[name](words) };
  } catch (error) {
    logger.error(error);
    return { error: error.name, code: error.resultCode, message: error.message };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
  }
  process.exit(0);
}

main();
