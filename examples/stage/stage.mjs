// What the examples in JavaScript run on.
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {createInterface} from 'node:readline'

/** Programs that run beside us, and a directory of theirs. */
class Stage {
  data = mkdtempSync(join(tmpdir(), 'headgate-example-'))
  #started = []

  /**
   * Starts a program.
   *
   * @param {'stdout' | 'stderr'} stream  where it says that it is ready
   * @param {(lines: string[]) => any} find  returns something when the lines so far have it
   * @returns what find found
   */
  async start(program, args, env, stream, find) {
    const child = spawn(program, args, {env: {...process.env, ...env}, stdio: ['ignore', 'pipe', 'pipe']})
    this.#started.push(child)
    child.on('error', (err) => console.error(`${program}: ${err.message}`))
    child[stream === 'stderr' ? 'stdout' : 'stderr'].pipe(process.stderr)
    const said = []
    for await (const line of createInterface({input: child[stream]})) {
      said.push(line)
      const found = find(said)
      if (!found) continue
      child[stream].resume()
      return found
    }
    throw new Error(`${program} ended:\n${said.join('\n')}`)
  }

  /** Starts a Node.js program that writes its port. */
  application(file, env) {
    return this.start(process.execPath, [file], {...env, NODE_ENV: 'production'}, 'stdout', ([line]) => line)
  }

  /** Starts headgate with doors on free ports, but for gRPC, and returns their addresses by name. */
  headgate(program, args, ...doors) {
    const free = {HEADGATE_GRPC: '', HEADGATE_HTTP: '127.0.0.1:0', HEADGATE_RESP: '127.0.0.1:0'}
    return this.start(program, [...args, '--data', this.data], free, 'stderr', (lines) => {
      const told = lines.map((line) => /door=(\S+) address=(\S+)/.exec(line)).filter(Boolean)
      const at = Object.fromEntries(told.map(([, door, address]) => [door, address]))
      return doors.every((door) => at[door]) && at
    })
  }

  async end() {
    for (const child of this.#started.reverse()) {
      if (child.exitCode === null && child.kill('SIGTERM')) await once(child, 'exit')
    }
    rmSync(this.data, {recursive: true, force: true})
  }
}

let wrong = false

/** Makes the program exit with 1 unless something is right. */
export function check(right, what) {
  if (right) return
  wrong = true
  console.log(`  WRONG: ${what}`)
}

/** Runs a program on a stage, which is gone afterwards. */
export async function run(main) {
  const stage = new Stage()
  process.stdout.on('error', () => {}) // nobody reads it any more: all is to be gone even so
  let stopped = false
  const stop = () => {
    stopped = true
    stage.end().finally(() => process.exit(1))
  }
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stop)
  try {
    await main(stage)
  } catch (err) {
    wrong = true
    if (!stopped) console.error(err)
  }
  await stage.end()
  process.exitCode = wrong ? 1 : 0
}
