import assert from 'node:assert/strict'
import {execFileSync, fork} from 'node:child_process'
import {once} from 'node:events'
import {chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, afterEach, before, beforeEach, describe, mock, test} from 'node:test'
import {setTimeout as delay} from 'node:timers/promises'
import {fileURLToPath} from 'node:url'
import {TokenClient, TokenManager} from 'headgate/pm2'
import {binary} from '../testing/server.js'

const slow = {capacity: 10, refillRate: 1, refillInterval: 3_600_000}

let scratch // of all tests
let home // of one
let open // what the test has to end

before(() => {
  scratch = mkdtempSync(join(tmpdir(), 'headgate-pm2-'))
  process.env.HEADGATE_BIN = binary()
})

after(() => rmSync(scratch, {recursive: true}))

beforeEach(() => {
  home = process.env.PM2_HOME = mkdtempSync(join(scratch, 'home-'))
  delete process.env.HEADGATE_URL
  open = []
})

afterEach(async () => {
  for (const end of open.reverse()) await end()
})

/** Starts a manager in this process. */
function managed(options) {
  const manager = new TokenManager(options)
  open.push(() => manager.stop())
  return new Promise((resolve, reject) => manager.start((err) => (err ? reject(err) : resolve(manager))))
}

/** Starts a manager in a process of its own, as PM2 does. */
async function forked(options) {
  const child = fork(fileURLToPath(new URL('pm2-app.js', import.meta.url)), [JSON.stringify(options)], {stdio: ['ignore', 'ignore', 'pipe', 'ipc']})
  child.said = ''
  child.stderr.on('data', (chunk) => (child.said += chunk))
  child.ended = Promise.all([once(child, 'exit'), once(child.stderr, 'end')]).then(([how]) => how)
  open.push(async () => {
    child.kill('SIGKILL')
    await child.ended
  })
  const [said] = await Promise.race([once(child, 'message'), child.ended])
  assert.equal(said, 'started', child.said)
  return child
}

function client(options = {}) {
  const lines = []
  const c = new TokenClient({logger: {warn: (line) => lines.push(line)}, ...options})
  c.lines = lines
  open.push(() => c.close())
  return c
}

/** The process ids of the servers of a bucket. */
function servers(name = 'tokens') {
  const command = `${process.env.HEADGATE_BIN} serve --resp unix:${home}/headgate/${name}.sock `
  return execFileSync('ps', ['-eww', '-o', 'pid=,args='], {encoding: 'utf8'})
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.replace(/^\d+ /, '').startsWith(command))
    .map((line) => parseInt(line, 10))
}

/** Stops the server, so that it answers nothing, and returns when it stands still. */
function freeze() {
  const [pid] = servers()
  process.kill(pid, 'SIGSTOP')
  const tasks = `/proc/${pid}/task`
  while (!readdirSync(tasks).every((task) => / T /.test(readFileSync(`${tasks}/${task}/stat`, 'utf8'))));
  return pid
}

/** Resolves when it is so, which is looked at every 5 ms. Fails after 10 seconds. */
async function until(what, isSo) {
  for (const began = performance.now(); !(await isSo()); await delay(5)) {
    if (performance.now() - began > 10_000) throw new Error(`not within 10 s: ${what}`)
  }
}

async function take(c, times, n) {
  const got = []
  for (let i = 0; i < times; i++) got.push(await c.consume(n))
  return got.filter(Boolean).length
}

test('what pm2-token-bucket calls for: one bucket for all instances', async () => {
  const manager = await managed(slow)
  assert.deepEqual(manager.getStatus(), {tokens: 10, ...slow})
  const clients = [client(), client(), client()]
  const granted = await Promise.all(clients.flatMap((c) => Array.from({length: 10}, () => c.consume())))
  assert.equal(granted.filter(Boolean).length, 10)
  const counts = clients.map((c) => c.stats())
  assert.equal(counts.reduce((sum, c) => sum + c.allowed, 0), 10)
  assert.equal(counts.reduce((sum, c) => sum + c.refused, 0), 20)
  await until('getStatus sees what was taken', () => manager.getStatus().tokens === 0)
  assert.deepEqual(manager.getStatus(), {tokens: 0, ...slow})
})

test('several tokens at once: all or none', async () => {
  await managed(slow)
  const c = client()
  assert.deepEqual([await c.consume(7), await c.consume(4), await c.consume(3), await c.consume(1)], [true, false, true, false])
})

test('the bucket refills continuously', async () => {
  const manager = await managed({capacity: 2, refillRate: 0.5, refillInterval: 10})
  const c = client()
  assert.equal(await c.consume(2), true)
  await until('a token is back', () => c.consume())
  await until('getStatus has them', () => manager.getStatus().tokens === 2)
})

test('the defaults are those of pm2-token-bucket', () => {
  assert.deepEqual(new TokenManager().getStatus(), {tokens: 100, capacity: 100, refillRate: 10, refillInterval: 1000})
})

describe('options that are wrong are refused by name', () => {
  const rows = [
    [TokenManager, {capacity: 0}, /^capacity: 0: must be a whole number from 1$/],
    [TokenManager, {capacity: 1.5}, /^capacity: 1.5:/],
    [TokenManager, {capacity: '10'}, /^capacity: "10":/],
    [TokenManager, {capacity: Infinity}, /^capacity: Infinity:/],
    [TokenManager, {refillRate: 0}, /^refillRate: 0: must be a number above 0/],
    [TokenManager, {refillRate: -1}, /^refillRate: -1:/],
    [TokenManager, {refillRate: 0.0001}, /^refillRate: 0.0001:.*three decimals/],
    [TokenManager, {refillRate: NaN}, /^refillRate: NaN:/],
    [TokenManager, {refillInterval: 0}, /^refillInterval: 0:/],
    [TokenManager, {refillInterval: 0.5}, /^refillInterval: 0.5:.*milliseconds/],
    [TokenManager, {startTimeout: 0}, /^startTimeout: 0:/],
    [TokenManager, {name: '../x'}, /^name: "..\/x":/],
    [TokenManager, {name: 'x'.repeat(41)}, /^name: /],
    [TokenManager, {name: 7}, /^name: 7:/],
    [TokenManager, {logger: {}}, /^logger: must have a method warn$/],
    [TokenManager, {refilRate: 1}, /^refilRate: unknown; there are capacity, refillRate/],
    [TokenClient, {name: ''}, /^name: "":/],
    [TokenClient, {timeout: 0}, /^timeout: 0: must be a whole number of milliseconds/],
    [TokenClient, {timeout: 60_001}, /^timeout: 60001:/],
    [TokenClient, {failOpen: 'no'}, /^failOpen: no:/],
    [TokenClient, {failopen: false}, /^failopen: unknown; there are name, timeout, failOpen/],
    [TokenClient, {capacity: 10, url: 'unix:///x'}, /^refillInterval: undefined:/],
    [TokenClient, slow, /^url: must be said/],
    [TokenClient, {url: 'nonsense'}, /^url: nonsense: must be such as redis:/],
    [TokenManager, {url: 'nonsense'}, /^url: nonsense: must be such as redis:/],
    [TokenClient, {...slow, url: 'tcp://x'}, /^url: tcp:/]
  ]
  for (const [Class, options, message] of rows) {
    test(`${Class.name} ${JSON.stringify(options)}`, () => assert.throws(() => new Class(options), {name: 'TypeError', message}))
  }
})

test('what consume is asked for must be a number of tokens, or it refuses', async () => {
  await managed(slow)
  const c = client()
  const wrong = [-1, -1e9, 0.5, NaN, Infinity, 2 ** 53, '1', 'x'.repeat(1e6), null, {}, Object.create(null), Symbol('x'), 1n, true, 11]
  for (const [i, n] of wrong.entries()) assert.equal(await c.consume(n), false, `number ${i}`)
  assert.equal(await c.consume(0), true)
  assert.deepEqual(c.stats(), {allowed: 0, refused: 0, failedOpen: 0, failedClosed: 0, invalid: wrong.length})
  assert.match(c.lines[0], /^headgate: bucket "tokens": refused: consume\(-1\): must be a whole number from 0$/)
  await c.close()
  assert.match(c.lines[1], /14 more in the last second, such as refused: consume\(11\): the bucket never holds more than 10$/)
  assert.equal(await take(client(), 20), 10, 'nothing was taken, and nothing minted')
})

test('a HEADGATE_URL that is wrong is refused by name', () => {
  process.env.HEADGATE_URL = 'nonsense'
  for (const Class of [TokenClient, TokenManager]) assert.throws(() => new Class(), {name: 'TypeError', message: /^HEADGATE_URL: nonsense: must be such as redis:/})
})

test('more than the bucket holds is refused, also without a server', async () => {
  const manager = await managed({...slow, capacity: 5})
  const c = client()
  assert.equal(await c.consume(), true)
  await manager.stop()
  assert.deepEqual([await c.consume(1000), await c.consume(6), await c.consume(5)], [false, false, true])
  assert.deepEqual([c.stats().invalid, c.stats().failedOpen], [2, 1])
  await c.close()
  assert.deepEqual([await c.consume(1000), await c.consume(5)], [false, true])
})

describe('start calls back with an error', () => {
  const failed = (options, message) => assert.rejects(managed(options), {message})

  test('where there is no such program', () => failed({binary: '/nowhere/headgate'}, /not started: \/nowhere\/headgate is no program\. .*make build.*binary: FILE.*HEADGATE_BIN=FILE/))

  test('where it is not on the PATH either', async () => {
    const {HEADGATE_BIN, PATH} = process.env
    open.push(() => Object.assign(process.env, {HEADGATE_BIN, PATH}))
    delete process.env.HEADGATE_BIN
    process.env.PATH = `:${home}/bin`
    await failed({}, /headgate is not on the PATH\. /)
    mkdirSync(join(home, 'bin'))
    symlinkSync(HEADGATE_BIN, join(home, 'bin', 'headgate'))
    process.env.PATH = `${process.env.PATH}:${PATH}`
    await managed(slow)
  })

  test('where the program is another one', () => {
    const program = join(home, 'broken')
    writeFileSync(program, '#!/bin/sh\necho "no idea of $1" >&2\nexit 3\n', {mode: 0o700})
    return failed({binary: program, startTimeout: 1000}, /headgate did not start within 1000 ms: no idea of serve$/)
  })

  test('where the directory is open to others', () => {
    mkdirSync(join(home, 'headgate'))
    chmodSync(join(home, 'headgate'), 0o770)
    return failed({}, /must be a directory of user \d+ that is closed to others \(mode 700\), but is one of user \d+ with mode 770$/)
  })

  test('where there is something else', async () => {
    symlinkSync(scratch, join(home, 'headgate'))
    await failed({}, /something else$/)
  })

  test('where PM2_HOME is too long for a socket', () => {
    process.env.PM2_HOME = join(home, 'x'.repeat(103))
    return failed({}, /longer than the 103 bytes/)
  })

  test('where another manager has the name', async () => {
    await managed(slow)
    await failed({startTimeout: 1000}, /did not start within 1000 ms: .*another server listens there$/)
    assert.equal(await client().consume(), true)
    assert.equal(servers().length, 1)
  })

  test('where nobody answers at the url', () => failed({url: `unix://${home}/none.sock`}, /not started: the connection to the server failed: connect ENOENT/))

  test('where it was started before', async () => {
    const manager = await managed(slow)
    const [err] = await new Promise((resolve) => manager.start((...args) => resolve(args)))
    assert.match(err.message, /started once/)
  })

  test('where it is stopped meanwhile', async () => {
    const manager = new TokenManager(slow)
    const called = new Promise((resolve) => manager.start(resolve))
    await manager.stop()
    assert.match((await called).message, /not started: /)
    assert.deepEqual(servers(), [])
  })

  test('and without a callback the process ends by it', async () => {
    const child = fork(fileURLToPath(new URL('pm2-app.js', import.meta.url)), [JSON.stringify({binary: '/nowhere'}), 'no callback'], {stdio: ['ignore', 'ignore', 'pipe', 'ipc']})
    let said = ''
    child.stderr.on('data', (chunk) => (said += chunk))
    const [code] = await once(child, 'close')
    assert.equal(code, 1)
    assert.match(said, /not started: \/nowhere is no program/)
  })
})

test('managers with different names do not mix', async () => {
  await managed({...slow, name: 'mail'})
  await managed({...slow, name: 'maps', capacity: 3})
  const mail = client({name: 'mail'})
  const maps = client({name: 'maps'})
  assert.deepEqual([await take(mail, 12), await take(maps, 12)], [10, 3])
  assert.equal(servers('mail').length, 1)
  assert.equal(servers('maps').length, 1)
})

test('what is written for clients is closed to others', async () => {
  await managed(slow)
  assert.equal(statSync(join(home, 'headgate')).mode & 0o777, 0o700)
  assert.equal(statSync(join(home, 'headgate', 'tokens.json')).mode & 0o777, 0o600)
})

describe('the server lives as long as its manager', () => {
  test('stop ends it', async () => {
    const manager = await managed(slow)
    assert.equal(servers().length, 1)
    const listeners = process.listenerCount('SIGTERM')
    await manager.stop()
    assert.deepEqual(servers(), [])
    assert.equal(process.listenerCount('SIGTERM'), listeners - 1)
  })

  for (const signal of ['SIGTERM', 'SIGINT']) {
    test(signal, async () => {
      const app = await forked(slow)
      app.kill(signal)
      assert.deepEqual(await app.ended, [null, signal])
      assert.deepEqual(servers(), [])
      assert.match(app.said, /msg=stopped/)
    })
  }

  test('a signal to the whole tree, as from PM2', async () => {
    const app = await forked(slow)
    const [server] = servers()
    const shell = Number(execFileSync('ps', ['-o', 'ppid=', '-p', String(server)]))
    for (const pid of [app.pid, shell, server]) process.kill(pid, 'SIGINT')
    assert.deepEqual(await app.ended, [null, 'SIGINT'])
    assert.deepEqual(servers(), [])
    assert.match(app.said, /msg=stopped/, 'it ended in order')
  })

  test("PM2's message", async () => {
    const app = await forked(slow)
    app.send('shutdown')
    assert.deepEqual(await app.ended, [0, null])
    assert.deepEqual(servers(), [])
  })

  test('the end of PM2', async () => {
    const app = await forked(slow)
    app.disconnect()
    assert.deepEqual(await app.ended, [0, null])
    assert.deepEqual(servers(), [])
  })

  test('kill -9: the next manager finds its place, and the bucket as it was', async () => {
    const app = await forked(slow)
    const c = client()
    assert.equal(await take(c, 6), 6)
    const [first] = servers()
    app.kill('SIGKILL')
    await managed(slow)
    assert.equal(servers().length, 1)
    assert.notEqual(servers()[0], first)
    // A kill costs at most one token of ten, and never gives one.
    const left = await take(c, 10)
    assert.ok(left === 4 || left === 3, `${left} of 4`)
  })

  test('a server that hangs is killed', async () => {
    const manager = await managed(slow)
    freeze()
    await manager.stop()
    assert.deepEqual(servers(), [])
  })

  test('a server that ends is started again, with the bucket as it was', async () => {
    const lines = []
    await managed({...slow, logger: {warn: (line) => lines.push(line)}})
    const c = client({failOpen: false})
    assert.equal(await take(c, 6), 6)
    const [first] = servers()
    process.kill(first, 'SIGKILL')
    await until('another one runs', () => servers().length === 1 && servers()[0] !== first)
    await until('the client has found it', () => c.consume())
    const left = (await take(c, 10)) + 1
    assert.ok(left === 4 || left === 3, `${left} of 4`)
    assert.ok(lines.some((line) => /the server ended \(exit code 137\), and is started again in 100 ms/.test(line)), lines.join('\n'))
  })

  test('a restart does not fill the bucket, and may change its numbers', async () => {
    const before = await managed(slow)
    assert.equal(await take(client(), 6), 6)
    await before.stop()
    const manager = await managed({...slow, capacity: 3})
    assert.deepEqual(manager.getStatus(), {...slow, tokens: 3, capacity: 3})
  })
})

describe('without a server', () => {
  for (const [failOpen, counter, word] of [
    [true, 'failedOpen', 'allowed without a limit'],
    [false, 'failedClosed', 'refused without asking']
  ]) {
    test(`failOpen: ${failOpen}: counted, and logged at most once a second`, async () => {
      mock.timers.enable({apis: ['setTimeout']})
      open.push(() => mock.timers.reset())
      const c = client({failOpen})
      for (let i = 0; i < 5; i++) assert.equal(await c.consume(), failOpen)
      assert.equal(c.stats()[counter], 5)
      assert.equal(c.lines.length, 1)
      assert.equal(c.lines[0], `headgate: bucket "tokens": ${word}: no TokenManager with this name has run in this PM2 (${home}/headgate/tokens.json)`)
      mock.timers.tick(999)
      assert.equal(c.lines.length, 1)
      mock.timers.tick(1)
      assert.equal(c.lines.length, 2)
      assert.match(c.lines[1], new RegExp(`: 4 more in the last second, such as ${word}: `))
      mock.timers.tick(5000)
      assert.equal(c.lines.length, 2, 'nothing happened since')
      await c.consume()
      assert.equal(c.lines.length, 3)
    })
  }

  test('by default it allows', async () => assert.equal(await client().consume(), true))

  test('a directory that is open to others is not believed', async () => {
    await managed(slow)
    chmodSync(join(home, 'headgate'), 0o755)
    const c = client({failOpen: false})
    assert.equal(await c.consume(), false)
    assert.match(c.lines[0], /closed to others/)
  })

  test('a note that nobody can read is said', async () => {
    await managed(slow)
    writeFileSync(join(home, 'headgate', 'tokens.json'), '{')
    const c = client()
    assert.equal(await c.consume(), true)
    assert.match(c.lines[0], /allowed without a limit: .*JSON/)
  })

  test('the manager may come later', async () => {
    const c = client({failOpen: false})
    assert.equal(await c.consume(), false)
    await managed(slow)
    assert.equal(await c.consume(), true)
  })

  test('a client that is closed says so', async () => {
    const c = client()
    await c.close()
    assert.equal(await c.consume(), true)
    assert.match(c.lines[0], /the client is closed/)
  })
})

describe('a server that hangs', () => {
  for (const [options, answer, patience, counter] of [
    [{}, true, 500, 'failedOpen'],
    [{timeout: 50}, true, 50, 'failedOpen'],
    [{timeout: 50, failOpen: false}, false, 50, 'failedClosed']
  ]) {
    test(`${JSON.stringify(options)}: ${answer} after ${patience} ms`, async () => {
      await managed(slow)
      const c = client(options)
      assert.equal(await c.consume(), true)
      const server = freeze()
      const began = performance.now()
      assert.equal(await c.consume(), answer)
      assert.ok(performance.now() - began >= patience - 1)
      assert.equal(c.stats()[counter], 1)
      assert.match(c.lines[0], new RegExp(`no answer within ${patience} ms`))
      process.kill(server, 'SIGCONT')
      const decided = c.stats().allowed
      await until('it decides again', async () => (await c.consume()) && c.stats().allowed > decided)
    })
  }

  test('does not delay everybody for ever', async () => {
    await managed(slow)
    const c = client({timeout: 50})
    await c.consume()
    const server = freeze()
    await Promise.all(Array.from({length: 5}, () => c.consume()))
    await c.consume() // the one that looks whether it is back
    const began = performance.now()
    for (let i = 0; i < 100; i++) assert.equal(await c.consume(), true)
    assert.ok(performance.now() - began < 100 * 50, 'not one after the other')
    assert.equal(c.stats().failedOpen, 106)
    process.kill(server, 'SIGCONT')
  })
})

describe('a Headgate that runs already', () => {
  test('is used, and told to clients', async () => {
    await managed({name: 'other'})
    const url = `unix://${home}/headgate/other.sock`
    await managed({...slow, url})
    assert.deepEqual(servers(), [])
    assert.equal(await take(client(), 12), 10)
  })

  test('by HEADGATE_URL', async () => {
    await managed({name: 'other'})
    process.env.HEADGATE_URL = `unix://${home}/headgate/other.sock`
    await managed(slow)
    assert.deepEqual(servers(), [])
    assert.equal(await take(client(), 12), 10)
  })

  test('by a client that says the numbers itself, without a manager', async () => {
    await managed({name: 'other'})
    assert.equal(await take(client({...slow, url: `unix://${home}/headgate/other.sock`}), 12), 10)
  })
})
