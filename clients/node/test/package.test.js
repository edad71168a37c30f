import assert from 'node:assert/strict'
import {execFileSync, spawn, spawnSync} from 'node:child_process'
import {once} from 'node:events'
import {mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync} from 'node:fs'
import {createServer} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {startServer} from '../testing/server.js'

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
