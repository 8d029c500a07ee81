// Every kind of gRPC call by @grpc/grpc-js: grpc_client.js ADDRESS [CA-FILE]. Exits with 0 if all
// went as they must.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');

const [address, caFile] = process.argv.slice(2);
const credentials = caFile
  ? grpc.credentials.createSsl(fs.readFileSync(caFile))
  : grpc.credentials.createInsecure();
const client = new grpc.Client(address, credentials, {
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
  'grpc.enable_http_proxy': 0,
  'grpc.ssl_target_name_override': 'proxy.test',
});

const same = (bytes) => bytes;
const path = (method) => `/test.Service/${method}`;
const within = (ms) => ({ deadline: Date.now() + ms });

function unary(method, bytes, ms = 60000, metadata = new grpc.Metadata()) {
  return new Promise((resolve, reject) => {
    const seen = {};
    const call = client.makeUnaryRequest(
      path(method), same, same, bytes, metadata, within(ms),
      (error, answer) => (error ? reject(error) : resolve({ answer, ...seen })),
    );
    call.on('metadata', (initial) => { seen.initial = initial; });
    call.on('status', (status) => { seen.status = status; });
  });
}

function all(stream) {
  return new Promise((resolve, reject) => {
    const messages = [];
    stream.on('data', (message) => messages.push(message));
    stream.on('end', () => resolve(messages));
    stream.on('error', reject);
  });
}

async function codeOf(promise) {
  try {
    await promise;
    return grpc.status.OK;
  } catch (error) {
    return error.code;
  }
}

const cancellations = async () => Number((await unary('Cancellations', Buffer.alloc(0))).answer);

async function awaitCount(wanted) {
  const end = Date.now() + 30000;
  while ((await cancellations()) < wanted) {
    assert(Date.now() < end, 'the server does not hear of it');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function main() {
  const big = Buffer.alloc(8 * 1024 * 1024, 'outrigger');
  for (const size of [0, 1, 100000]) {
    const { answer } = await unary('Unary', big.subarray(0, size));
    assert(answer.equals(big.subarray(0, size)), `unary of ${size}`);
  }
  assert((await unary('Unary', big)).answer.equals(big), '8 MiB');

  const metadata = new grpc.Metadata();
  metadata.set('x-token', '7');
  await new Promise((resolve, reject) => {
    const call = client.makeUnaryRequest(
      path('Unary'), same, same, Buffer.from('x'), metadata, within(60000),
      (error) => error && reject(error),
    );
    let initial;
    call.on('metadata', (found) => { initial = found; });
    call.on('status', (status) => {
      try {
        assert.deepStrictEqual(initial.get('x-answer'), ['7']);
        assert.deepStrictEqual(status.metadata.get('x-length'), ['1']);
        resolve();
      } catch (error) {
        reject(error);
      }
    });
  });

  const collected = await new Promise((resolve, reject) => {
    const call = client.makeClientStreamRequest(
      path('Collect'), same, same, within(60000),
      (error, answer) => (error ? reject(error) : resolve(answer)),
    );
    for (let n = 0; n < 50; n += 1) call.write(big.subarray(0, 100000));
    call.end();
  });
  assert.strictEqual(collected.length, 50 * 100000);

  const expanded = await all(
    client.makeServerStreamRequest(path('Expand'), same, same, Buffer.alloc(300, 'a'), within(60000)),
  );
  assert.deepStrictEqual(expanded.map((message) => message.length), Array(300).fill(1000));

  const chat = client.makeBidiStreamRequest(path('Chat'), same, same, within(60000));
  const answers = [];
  await new Promise((resolve, reject) => {
    chat.on('data', (message) => {
      answers.push(message.toString());
      // Each message after the answer to the one before.
      if (answers.length < 50) chat.write(Buffer.from(`m${answers.length}`));
      else chat.end();
    });
    chat.on('end', resolve);
    chat.on('error', reject);
    chat.write(Buffer.from('m0'));
  });
  const expected = [...Array(50).keys()].map((n) => [...`m${n}`].reverse().join(''));
  assert.deepStrictEqual(answers, expected);

  try {
    await unary('Fail', Buffer.from('x'));
    assert.fail('no failure');
  } catch (error) {
    assert.strictEqual(error.code, grpc.status.NOT_FOUND);
    assert.strictEqual(error.details, 'not here: \u00e9');
    assert.deepStrictEqual(error.metadata.get('x-detail'), ['more']);
  }
  assert.strictEqual(await codeOf(unary('Nothing', Buffer.from('x'))), grpc.status.UNIMPLEMENTED);

  const before = await cancellations();
  const slow = client.makeServerStreamRequest(
    path('Slow'), same, same, Buffer.from('x'), within(60000),
  );
  const code = await new Promise((resolve) => {
    slow.on('data', () => slow.cancel());
    slow.on('error', (error) => resolve(error.code));
  });
  assert.strictEqual(code, grpc.status.CANCELLED);
  await awaitCount(before + 1);
  const late = client.makeServerStreamRequest(
    path('Slow'), same, same, Buffer.from('x'), within(300),
  );
  assert.strictEqual(await codeOf(all(late)), grpc.status.DEADLINE_EXCEEDED);
  await awaitCount(before + 2);

  const many = [...Array(500).keys()].map((n) => unary('Unary', Buffer.from(`${n}`)));
  const found = (await Promise.all(many)).map(({ answer }) => answer.toString());
  assert.deepStrictEqual(found, [...Array(500).keys()].map(String));
  client.close();
  console.log('ok');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
