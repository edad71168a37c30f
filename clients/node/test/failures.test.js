import assert from 'node:assert/strict'
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {createServer as createHTTP} from 'node:http'
import {connect, createServer} from 'node:net'
import {after, before, describe, test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {Headgate, HeadgateError} from 'headgate'
import {atEnd, listener, startOnSockets, startServer} from '../testing/server.js'

const limit = {count: 1_000_000, period: 3600}

function clientFor(t, options) {
  const client = new Headgate({logger: listener(), ...options})
  t.after(() => client.close())
  return client
}

/** Asks until there is an answer. */
async function untilAnswered(client) {
  for (;;) {
    try {
      return await client.ping()
    } catch (err) {
      assert.ok(err instanceof HeadgateError, err)
    }
  }
}

/** Listens on a free port of this machine, and ends all connections with the test. */
async function listen(t, server) {
  const sockets = new Set()
  server.on('connection', (socket) => sockets.add(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return server.address().port
}

const suite = atEnd(after)
let server
before(async () => (server = await startServer(suite)))

for (const door of ['redis', 'http']) {
  describe(`by ${door}`, () => {
    test('a server that is killed and comes back', async (t) => {
      const own = await startOnSockets(t)
      const logger = listener()
      const client = clientFor(t, {url: own[door], logger, timeout: 200})
      await untilAnswered(client)
      assert.equal((await client.throttle('k', limit)).degraded, null)
      await own.kill()

      const closed = await client.throttle('k', limit)
      assert.deepEqual([closed.allowed, closed.reason, closed.degraded, closed.limit, closed.retryAfterMs, closed.retryable], [false, 'store_unavailable', 'closed', null, 500, true])
      assert.ok(closed.error instanceof HeadgateError)
      const open = await client.throttle('k', {...limit, onError: 'open'})
      assert.deepEqual([open.allowed, open.reason, open.degraded, open.retryAfterMs], [true, 'store_unavailable', 'open', 0])
      await assert.rejects(client.take({operation: 'send', subject: 'x', onError: 'throw'}), HeadgateError)
      while (client.stats().breaker === 'closed') await client.throttle('k', limit)
      const at = performance.now()
      const codes = await Promise.all(Array.from({length: 1000}, async () => (await client.throttle('k', limit)).error.code))
      assert.ok(codes.filter((code) => code === 'breaker_open').length >= 999, 'but for a probe all are decided without asking')
      assert.ok(performance.now() - at < 1000)
      assert.equal(client.stats().connected, false)
      assert.ok(logger.lines.some((line) => /no decision .*: requests are refused/.test(line)), `${logger.lines}`)
      assert.ok(logger.lines.length <= 8, `of each kind one line: ${logger.lines.join('\n')}`)

      await own.start()
      await untilAnswered(client)
      const back = await client.throttle('k', limit)
      assert.deepEqual([back.allowed, back.degraded], [true, null])
      const {breaker, connected, failedOpen, pending} = client.stats()
      assert.deepEqual({breaker, connected, failedOpen, pending}, {breaker: 'closed', connected: true, failedOpen: 1, pending: 0})
    })

    test('a server that does not answer', async (t) => {
      const client = clientFor(t, {url: server[door], timeout: 50, onError: 'open', breaker: {failures: 3, cooldown: 60}})
      await untilAnswered(client)
      server.freeze()
      t.after(() => server.thaw())
      for (let i = 0; i < 3; i++) {
        const at = performance.now()
        const d = await client.throttle(`slow-${door}`, limit)
        assert.deepEqual([d.allowed, d.degraded, d.error.code], [true, 'open', 'timeout'])
        assert.ok(performance.now() - at >= 49, 'not before its time')
      }
      assert.match((await client.throttle(`slow-${door}`, limit)).error.message, /is not asked for a while/)
      const stats = client.stats()
      assert.deepEqual([stats.breaker, stats.failedOpen, stats.pending], ['open', 4, 0])
      assert.ok(stats.timeouts >= 3)
      server.thaw()
      await untilAnswered(client)
      const d = await client.throttle(`slow-${door}`, limit)
      assert.equal(d.degraded, null)
      assert.deepEqual([client.stats().allowed, client.stats().breaker], [1, 'closed'], 'late answers are ignored')
    })

    test('close waits for what is asked, and ends', async () => {
      const client = new Headgate({url: server[door], timeout: 5000})
      const asked = Promise.all(Array.from({length: 100}, () => client.throttle(`close-${door}`, limit)))
      const closing = client.close()
      await assert.rejects(client.throttle('k', limit), {code: 'client_closed'})
      await assert.rejects(client.ping(), {code: 'client_closed'})
      assert.ok((await asked).every((d) => d.degraded === null))
      await closing
      await client.close()
      assert.equal(client.stats().pending, 0)
    })

    test('close does not wait longer than the time-out', async (t) => {
      const client = clientFor(t, {url: server[door], timeout: 100})
      await untilAnswered(client)
      server.freeze()
      t.after(() => server.thaw())
      const asked = client.throttle('k', limit)
      await client.close()
      assert.equal((await asked).error.code, 'timeout')
    })

    test('a program ends by itself after close', async () => {
      const url = JSON.stringify(server[door])
      const text = `import {Headgate} from 'headgate'; const c = new Headgate({url: ${url}, timeout: 5000}); const d = await c.throttle('exit', {count: 9, period: 60}); await c.close(); console.log(d.limit)`
      const child = spawn(process.execPath, ['--input-type=module', '-e', text], {cwd: fileURLToPath(new URL('..', import.meta.url)), stdio: ['ignore', 'pipe', 'inherit']})
      const [[said], [code]] = await Promise.all([once(child.stdout, 'data'), once(child, 'exit')])
      assert.deepEqual([String(said), code], ['9\n', 0])
    })

    test('a program that was held up has not timed out', async (t) => {
      const client = clientFor(t, {url: server[door], timeout: 300})
      await untilAnswered(client)
      const asked = client.throttle('held', limit)
      holdUp(700)
      assert.equal((await asked).degraded, null)
      const sent = client.throttle('held', limit)
      await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
      holdUp(700)
      assert.equal((await sent).degraded, null)
    })
  })
}

function holdUp(ms) {
  const until = performance.now() + ms
  while (performance.now() < until);
}

test('ten thousand calls that wait', async (t) => {
  const client = clientFor(t, {url: server.redis, timeout: 30_000})
  await untilAnswered(client)
  server.freeze()
  t.after(() => server.thaw())
  const some = {count: 9000, period: 36_000}
  const asked = Array.from({length: 10_000}, () => client.throttle('crowd', some))
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(client.stats().pending, 10_000)
  const more = await client.throttle('crowd', some)
  assert.deepEqual([more.allowed, more.error.code], [false, 'too_many_pending'])
  assert.match(more.error.message, /10000 calls wait for an answer \(maxPending\)/)
  server.thaw()
  const answers = await Promise.all(asked)
  const stats = client.stats()
  assert.equal(answers.filter((d) => d.allowed).length, 9000)
  assert.deepEqual([stats.allowed, stats.refused, stats.pending, stats.failedClosed, stats.breaker], [9000, 1000, 0, 1, 'closed'])
})

test('calls that were given up count until they are answered', async (t) => {
  const client = clientFor(t, {url: server.redis, timeout: 50, maxPending: 100, breaker: {failures: 1000, cooldown: 60_000}})
  await untilAnswered(client)
  server.freeze()
  t.after(() => server.thaw())
  const first = await Promise.all(Array.from({length: 100}, () => client.throttle('k', limit)))
  assert.ok(first.every((d) => d.error.code === 'timeout'))
  assert.equal((await client.throttle('k', limit)).error.code, 'too_many_pending')
  server.thaw()
  while ((await client.throttle('k', limit)).degraded !== null) await new Promise((resolve) => setImmediate(resolve))
})

test('calls before there is a connection wait for it', async (t) => {
  const client = clientFor(t, {url: server.redis, timeout: 20_000})
  const asked = await Promise.all(Array.from({length: 50}, () => client.throttle('early', limit)))
  assert.ok(asked.every((d) => d.degraded === null))
})

for (const door of ['redis', 'http']) {
  test(`a server that refuses connections, by ${door}, holds nobody up, and is announced when it is back`, async (t) => {
    const own = await startOnSockets(t)
    await own.kill()
    const lines = []
    const logger = {warn: (line) => lines.push(['warn', line]), info: (line) => lines.push(['info', line])}
    // Who waited for the time-out would be ended by that of the test.
    const client = clientFor(t, {url: own[door], timeout: 60_000, logger, breaker: {failures: 20, cooldown: 60_000}})
    for (const [onError, allowed] of [['closed', false], ['open', true], ['closed', false]]) {
      const d = await client.throttle('k', {...limit, onError})
      assert.deepEqual([d.allowed, d.error.code], [allowed, 'disconnected'])
      assert.match(d.error.message, /^(the connection to the server failed|no answer from the server): connect E/)
    }
    const many = await Promise.all(Array.from({length: 10}, () => client.throttle('k', limit)))
    assert.ok(many.every((d) => d.error.code === 'disconnected'))
    await assert.rejects(client.throttle('k', {...limit, onError: 'throw'}), {code: 'disconnected'})
    await assert.rejects(client.ping(), {code: 'disconnected'})
    assert.deepEqual([client.stats().timeouts, client.stats().pending], [0, 0])
    assert.ok(lines.every(([kind]) => kind === 'warn'))

    await own.start()
    await untilAnswered(client)
    assert.equal((await client.throttle('k', limit)).degraded, null)
    assert.deepEqual(lines.filter(([kind]) => kind === 'info'), [['info', 'headgate: the server answers again; 14 calls were decided without it']])
    assert.equal(lines.at(-1)[0], 'info')
  })
}

test('whether the server is back is not found out by standing in line', async (t) => {
  const own = await startOnSockets(t)
  const client = clientFor(t, {url: own.http, timeout: 5000, breaker: {failures: 1, cooldown: 1}})
  const line = {operation: 'line', subject: 'a', maxWait: 10_000}
  await own.kill()
  assert.equal((await client.take(line)).error.code, 'disconnected')
  await own.start()
  const others = clientFor(t, {url: own.http, timeout: 5000})
  const inLine = Array.from({length: 20}, () => others.take(line)) // for 4 seconds
  while ((await others.peek({operation: 'line', subject: 'a'})).allowed);
  const began = performance.now()
  client.take(line)
  while (client.stats().breaker !== 'closed') {
    assert.ok(performance.now() - began < 2000, 'it looks for longer than 2 seconds')
    await new Promise((resolve) => setImmediate(resolve))
    client.take(line)
  }
  assert.equal((await client.throttle('a', {count: 9, period: 60})).allowed, true)
  await others.close()
  await Promise.all(inLine)
})

test('calls that stood behind others of this client say nothing of the server', async (t) => {
  const held = []
  const port = await listen(t, createHTTP((req, res) => {
    if (held.push(res) !== 256) return
    const answered = [...held]
    setTimeout(() => {
      for (const one of answered) one.end('{"allowed":true,"limits":[]}')
    }, 1500)
  }))
  const client = clientFor(t, {url: `http://127.0.0.1:${port}`, timeout: 1000, breaker: {failures: 1, cooldown: 60_000}})
  const asked = await Promise.all(Array.from({length: 300}, () => client.take({operation: 'a', maxWait: 1000})))
  const counts = {}
  for (const {error} of asked) counts[error?.code] = (counts[error?.code] ?? 0) + 1
  assert.deepEqual([counts, held.length, client.stats().breaker], [{undefined: 256, too_many_pending: 44}, 300, 'closed'])
})

test('a logger that only warns is warned that the server is back', async (t) => {
  const own = await startOnSockets(t)
  await own.kill()
  const logger = listener()
  const client = clientFor(t, {url: own.redis, timeout: 5000, logger})
  await client.throttle('k', limit)
  await own.start()
  await untilAnswered(client)
  assert.deepEqual(logger.lines.slice(-1), ['headgate: the server answers again; 1 call was decided without it'])
})

test('a connection that has died in silence is replaced', async (t) => {
  let dead = false
  const front = createServer((socket) => {
    const back = connect(Number(new URL(server.redis).port), '127.0.0.1')
    socket.on('error', () => back.destroy()).on('close', () => back.destroy())
    back.on('error', () => socket.destroy()).on('close', () => socket.destroy())
    socket.on('data', (data) => dead && socket.born === 1 ? undefined : back.write(data))
    back.on('data', (data) => socket.write(data))
    socket.born = ++born
  })
  let born = 0
  const port = await listen(t, front)
  const client = clientFor(t, {url: `redis://127.0.0.1:${port}`, timeout: 200, breaker: {failures: 2, cooldown: 10}})
  await untilAnswered(client)
  dead = true
  assert.equal((await client.throttle('k', limit)).error.code, 'timeout')
  await untilAnswered(client)
  assert.ok(born > 1)
})

test('what the server says of itself', async (t) => {
  const replies = {
    unavailable: '-UNAVAILABLE the store cannot decide at the moment\r\n',
    internal: '-INTERNAL the log says why\r\n',
    closed: '-CLOSED the server is stopping\r\n',
    overloaded: '-OVERLOADED the store has no room for another key\r\n',
    invalid_request: '-ERR unknown command\r\n'
  }
  let reply
  const port = await listen(t, createServer((socket) => socket.on('data', () => socket.write(reply)).on('error', () => {})))
  const client = clientFor(t, {url: `redis://127.0.0.1:${port}`, timeout: 5000, onError: 'open', breaker: {failures: 1, cooldown: 60_000}})
  const ask = async (code) => {
    reply = replies[code]
    return client.throttle('k', limit)
  }
  for (const code of ['unavailable', 'internal']) {
    const d = await ask(code)
    assert.deepEqual([d.allowed, d.reason, d.error.code], [true, 'store_unavailable', code])
  }
  const full = await ask('overloaded')
  assert.deepEqual([full.allowed, full.reason, full.degraded], [false, 'overloaded', 'closed'], 'whoever floods the server does not open it')
  await assert.rejects(ask('invalid_request'), {code: 'invalid_request', message: /^a Redis server answers at 127\.0\.0\.1:\d+, and Headgate's own server is needed, not a Redis: start headgate serve and write .*redis:\/\//})
  reply = '+OK\r\n'
  const odd = await client.throttle('k', limit)
  assert.deepEqual([odd.allowed, odd.error.code], [true, 'internal'])
  assert.equal(client.stats().breaker, 'closed', 'a server that answers is there')
  await ask('closed')
  assert.equal(client.stats().breaker, 'open')
})

test('what stands at the address of the HTTP door and is no Headgate', async (t) => {
  let answer
  const port = await listen(t, createHTTP((req, res) => res.writeHead(...answer.slice(0, 2)).end(answer[2])))
  const client = clientFor(t, {url: `http://127.0.0.1:${port}`, timeout: 5000})
  for (const [given, code, message] of [
    [[200, {}, '<html>'], 'internal', /is the url right/],
    [[200, {}, '{}'], 'internal', /is the url right/],
    [[200, {}, 'x'.repeat(2 << 20)], 'disconnected', /an answer of more than 1048576 bytes/],
    [[502, {}, 'bad gateway'], 'internal', /answered 502/],
    [[503, {}, '{"type":"urn:headgate:problem:unavailable","detail":"no"}'], 'unavailable', /^no$/]
  ]) {
    answer = given
    const {error, allowed} = await client.throttle('k', limit)
    assert.deepEqual([allowed, error.code], [false, code])
    assert.match(error.message, message)
  }
  answer = [404, {}, 'not found']
  await assert.rejects(client.throttle('k', limit), {code: 'invalid_request', message: 'the server answered 404'})
})

test('the address of another door, or of a Redis', async (t) => {
  const redisPort = await startRedis(t)
  const resp = new URL(server.redis).port
  const web = new URL(server.http).port
  for (const [url, message] of [
    [`redis://127.0.0.1:${web}`, `an HTTP server answers at 127.0.0.1:${web}: write url: http://127.0.0.1:${web} if it is Headgate's HTTP door, or the port of its Redis door, which is 6380 unless --resp says otherwise`],
    [`redis://127.0.0.1:${redisPort}`, `a Redis server answers at 127.0.0.1:${redisPort}, and Headgate's own server is needed, not a Redis: start headgate serve and write the address of its Redis door, such as redis://127.0.0.1:6380`]
  ]) {
    const logger = listener()
    const client = clientFor(t, {url, timeout: 5000, onError: 'open', logger})
    for (const ask of [() => client.throttle('k', limit), () => client.take({operation: 'send', subject: 'x'})]) {
      await assert.rejects(ask(), {code: 'invalid_request', message})
    }
  }
  const client = clientFor(t, {url: `http://127.0.0.1:${resp}`, timeout: 5000})
  const {error} = await client.throttle('k', limit)
  assert.equal(error.code, 'disconnected')
  assert.equal(error.message, `the server at 127.0.0.1:${resp} hangs up on HTTP, as a Redis door does: write url: redis://127.0.0.1:${resp} if it is one`)
  await assert.rejects(client.ping(), {code: 'invalid_request', message: `a server of the Redis protocol answers at 127.0.0.1:${resp}: write url: redis://127.0.0.1:${resp} if it is Headgate's Redis door, or the port of its HTTP door, which is 8080 unless --http says otherwise`})
})

/** Starts a Redis on a free port, and returns that. */
async function startRedis(t) {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const {port} = probe.address()
  probe.close()
  await once(probe, 'close')
  const child = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'], {stdio: ['ignore', 'pipe', 'inherit']})
  const ended = once(child, 'exit')
  t.after(async () => (child.kill('SIGKILL'), ended))
  let said = ''
  for await (const text of child.stdout) {
    said += text
    if (said.includes('Ready to accept connections')) break
  }
  assert.equal(child.exitCode, null, said)
  return port
}
