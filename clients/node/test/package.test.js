import assert from 'node:assert/strict'
import {execFileSync, spawn, spawnSync} from 'node:child_process'
import {once} from 'node:events'
import {existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync} from 'node:fs'
import {createRequire} from 'node:module'
import {createServer} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {binary, newScratch, startServer} from '../testing/server.js'

const root = fileURLToPath(new URL('..', import.meta.url))

test('types', () => {
  const {status, stdout} = spawnSync(join(root, 'node_modules/.bin/tsc'), ['-p', join(root, 'testing/types')], {encoding: 'utf8'})
  assert.equal(status, 0, stdout)
})

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const {port} = server.address()
  server.close()
  return port
}

test('PM2.md', async (t) => {
  const scratch = newScratch()
  const children = []
  t.after(async () => {
    for (const {child, ended} of children) {
      child.kill()
      await ended
    }
    rmSync(scratch, {recursive: true})
  })
  mkdirSync(join(scratch, 'node_modules'))
  symlinkSync(root, join(scratch, 'node_modules/headgate'))
  writeFileSync(join(scratch, 'package.json'), '{}')
  for (const [, text, name] of readFileSync(join(root, 'PM2.md'), 'utf8').matchAll(/```js\n(\/\/ ([\w.]+).*?)```/gs)) writeFileSync(join(scratch, name), text)
  const {apps} = createRequire(import.meta.url)(join(scratch, 'ecosystem.config.js'))
  assert.deepEqual(apps.map(({script}) => script), ['server.js', 'app.js'])

  const port = await freePort()
  const env = {...process.env, HEADGATE_URL: '', PM2_HOME: scratch, HEADGATE_BIN: binary(), PORT: String(port)}
  for (const {script} of apps) {
    const child = spawn(process.execPath, [script], {cwd: scratch, env, stdio: ['ignore', 'ignore', 'pipe']})
    children.push({child, ended: once(child, 'close')})
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text) => (said += text))
    const isThere = script === 'server.js' ? () => existsSync(join(scratch, 'headgate/tokens.json')) : () => ask().then(() => true, () => false)
    while (!(await isThere())) {
      assert.equal(child.exitCode, null, said)
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  const taken = []
  for (let i = 0; i < 12; i++) taken.push(await ask())
  assert.deepEqual([taken[0], taken.at(-1)], [200, 429])

  async function ask() {
    return (await fetch(`http://127.0.0.1:${port}`)).status
  }
})

// The application of the README, as it stands there, with the package as it is packed.
test('README', async (t) => {
  const scratch = mkdtempSync(join(tmpdir(), 'headgate-pack-'))
  t.after(() => rmSync(scratch, {recursive: true}))
  execFileSync('npm', ['pack', '--silent', '--pack-destination', scratch], {cwd: root, stdio: 'pipe'})
  const [tarball] = readdirSync(scratch)
  assert.equal(tarball, 'headgate-0.1.0.tgz')
  mkdirSync(join(scratch, 'node_modules/headgate'), {recursive: true})
  execFileSync('tar', ['-xzf', tarball, '-C', 'node_modules/headgate', '--strip-components=1'], {cwd: scratch})
  for (const name of readdirSync(join(root, 'node_modules'))) symlinkSync(join(root, 'node_modules', name), join(scratch, 'node_modules', name))
  const files = readdirSync(join(scratch, 'node_modules/headgate'), {recursive: true})
  assert.ok(files.includes('README.md') && files.includes('LICENSE') && files.includes('lib/index.d.ts') && files.includes('lib/pm2.js'), `${files}`)
  assert.ok(!files.some((name) => /test|bench/.test(name)), `${files}`)

  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  const [, app] = /`app\.js`:\n\n```js\n(.*?)```/s.exec(readme)
  const [, session] = /```console\n(.*?)```/s.exec(readme)
  const [command, ...expected] = session.trimEnd().split('\n')
  writeFileSync(join(scratch, 'app.js'), app)
  writeFileSync(join(scratch, 'package.json'), '{"type": "module"}')

  const server = await startServer(t)
  const port = await freePort()
  const child = spawn(process.execPath, ['app.js'], {cwd: scratch, env: {...process.env, HEADGATE_URL: server.redis, PORT: String(port)}, stdio: ['ignore', 'ignore', 'inherit']})
  const ended = once(child, 'exit')
  t.after(() => child.kill('SIGKILL'))
  const at = `http://127.0.0.1:${port}`
  let left
  while (!left) {
    left = await fetch(at, {headers: {connection: 'close'}}).then((r) => r.text(), () => undefined)
    assert.equal(child.exitCode, null, 'app.js has ended')
  }
  assert.equal(left, '9 left\n')
  const said = execFileSync('sh', ['-c', command.replace(/^\$ /, '').replace('http://127.0.0.1:3000', at)], {encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit']})
  assert.deepEqual(said.split('\n'), expected)
  child.kill('SIGTERM')
  assert.deepEqual(await ended, [0, null])
})
