// Two processes of app.mjs behind one Headgate: they share the limits, statistics show who
// was refused, and a reset lets them go on. It exits 1 if anything else passes than what
// policy.yaml allows.
//
//   node demo.mjs HEADGATE
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {check, run} from '../stage/stage.mjs'

const here = import.meta.dirname
const [headgate = 'headgate'] = process.argv.slice(2)

async function get(port, path, key) {
  const res = await fetch(`http://127.0.0.1:${port}${path}`, {headers: {'X-Api-Key': key}})
  return {status: res.status, limit: res.headers.get('RateLimit'), retry: res.headers.get('Retry-After'), body: await res.json()}
}

/** Asks both servers in turns, ten at once. */
async function ask(ports, path, key, times) {
  const answers = []
  let next = 0
  const one = async () => {
    while (next < times) answers.push(await get(ports[next++ % ports.length], path, key))
  }
  const began = performance.now()
  await Promise.all(Array.from({length: 10}, one))
  const passed = answers.filter((a) => a.status === 200)
  return {
    answers,
    passed: passed.length,
    refused: answers.filter((a) => a.status === 429).length,
    servers: new Set(passed.map((a) => a.body.server)).size,
    seconds: (performance.now() - began) / 1000
  }
}

run(async (stage) => {
  const at = await stage.headgate(headgate, ['serve', '--policy', join(here, 'policy.yaml')], 'http', 'resp')
  const app = () => stage.application(join(here, 'app.mjs'), {HEADGATE_URL: `redis://${at.resp}`})
  const ports = await Promise.all([app(), app()])

  const all = await ask(ports, '/', 'alice', 80)
  const most = 60 + Math.floor(all.seconds)
  console.log(`alice, 80 requests to 2 servers (60 a minute): ${all.passed} passed on ${all.servers} servers, ${all.refused} were refused`)
  check(all.passed >= 60 && all.passed <= most && all.passed + all.refused === 80, `60 to ${most} may pass`)
  check(all.servers === 2, 'both servers should have answered')

  const strict = await ask(ports, '/strict', 'bob', 8)
  const refused = strict.answers.find((a) => a.status === 429)
  console.log(`bob, 8 requests to /strict (5 a minute): ${strict.passed} passed, ${strict.refused} were refused`)
  console.log(`  429, Retry-After: ${refused?.retry}, RateLimit: ${refused?.limit}`)
  console.log(`  ${refused?.body.detail}`)
  check(strict.passed === 5 && strict.refused === 3, '5 may pass')
  const {body} = await get(ports[0], '/', 'bob')
  console.log(`  of his 60 there are ${body.left} left: refusals took nothing`)
  check(body.left >= 54 && body.left <= 55, '54 should be left')

  const token = readFileSync(join(stage.data, 'admin-token'), 'utf8').trim()
  const manage = async (path, init) => {
    const headers = {Authorization: `Bearer ${token}`, 'Content-Type': 'application/json'}
    const res = await fetch(`http://${at.http}${path}`, {...init, headers})
    if (!res.ok) throw new Error(`${path}: ${res.status} ${await res.text()}`)
    return res.json()
  }
  const {items: top} = await manage('/v1/top?by=denied&application=shop')
  console.log(`statistics: refused were ${top.map((s) => `${s.subject} (${s.count})`).join(', ')}`)
  check(top.length === 2 && top[0].subject === 'alice' && top[0].count === all.refused, 'alice first, as often as she was refused')

  await manage('/v1/applications/shop/subject/reset?subject=alice', {method: 'POST', body: '{"limits": "all"}'})
  const again = await get(ports[1], '/', 'alice')
  console.log(`alice is reset: ${again.status}, ${again.body.left} left`)
  check(again.status === 200 && again.body.left === 59, '59 should be left')
})
