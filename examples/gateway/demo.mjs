// Headgate as a reverse proxy before application.mjs: pages, an API, server-sent events and
// a WebSocket pass through it, limited by policy.yaml. It exits 1 if anything else passes.
//
//   node demo.mjs HEADGATE
import {once} from 'node:events'
import {join} from 'node:path'
import {WebSocket} from 'ws'
import {check, run} from '../stage/stage.mjs'

const here = import.meta.dirname
const [headgate = 'headgate'] = process.argv.slice(2)

/** Opens a WebSocket; its answer if it is refused. */
async function connect(url) {
  const socket = new WebSocket(url)
  const refused = once(socket, 'unexpected-response').then(([, res]) => ({status: res.statusCode, reason: res.headers['headgate-reason']}))
  const opened = once(socket, 'open').then(() => ({status: 101, socket}))
  const outcome = await Promise.race([opened, refused])
  refused.catch(() => {})
  opened.catch(() => {})
  return outcome
}

/** Opens a WebSocket when the proxy has seen that a stream before it has ended. */
async function connectNext(url) {
  let outcome
  do outcome = await connect(url)
  while (outcome.status === 429)
  return outcome
}

/** Reads an answer until it has so many events. */
async function events(res, n) {
  let text = ''
  for await (const chunk of res.body) {
    text += Buffer.from(chunk)
    if (text.split('\n\n').length > n) return text.split('\n\n').slice(0, n)
  }
  return text
}

run(async (stage) => {
  const port = await stage.application(join(here, 'application.mjs'))
  const args = ['proxy', '--upstream', `http://127.0.0.1:${port}`, '--listen', '127.0.0.1:0', '--application', 'site', '--policy', join(here, 'policy.yaml')]
  const {proxy} = await stage.headgate(headgate, args, 'proxy')
  const site = `http://${proxy}`

  const page = await fetch(`${site}/hello`, {headers: {'X-Forwarded-For': '203.0.113.9'}})
  const {path, client} = await page.json()
  console.log(`GET ${path}: ${page.status}, RateLimit: ${page.headers.get('RateLimit')}`)
  check(page.status === 200 && path === '/hello' && page.headers.has('RateLimit'), 'a page of the application with RateLimit')
  console.log(`  the application sees ${client}`)

  const calls = []
  for (let i = 0; i < 12; i++) calls.push(await fetch(`${site}/api/orders`, {headers: {Accept: i % 2 ? 'text/html' : 'application/json'}}))
  const passed = calls.filter((res) => res.status === 200).length
  const [problem, html] = await Promise.all(calls.slice(-2).map((res) => res.text()))
  console.log(`12 calls of /api/orders (10 a minute): ${passed} passed, then ${calls.at(-1).status}, Retry-After: ${calls.at(-1).headers.get('Retry-After')}`)
  console.log(`  to a program:  ${JSON.parse(problem).detail}`)
  console.log(`  to a browser:  ${/<p>(.*?)<\/p>/.exec(html)?.[1]}`)
  check(passed === 10 && calls.at(-1).status === 429, '10 may pass')

  const stream = await fetch(`${site}/streams/events`)
  const ticks = await events(stream, 3)
  console.log(`GET /streams/events: ${stream.headers.get('Content-Type')}, ${ticks.join(', ')} as they come`)
  const url = `ws://${proxy}/streams/socket`
  const [first, second] = [await connectNext(url), await connectNext(url)]
  first.socket.send('hello')
  const [said] = await once(first.socket, 'message')
  console.log(`a WebSocket: ${first.status}, "${said}"`)
  check(first.status === 101 && `${said}` === 'echo hello', 'an echo')
  const third = await connect(url)
  console.log(`a third stream at once (2 may be): ${third.status} ${third.reason}`)
  check(third.status === 429 && third.reason === 'concurrency_exceeded', 'it should be refused')
  first.socket.close()
  await once(first.socket, 'close')
  const next = await connectNext(url)
  console.log(`one is closed: ${next.status}`)
  for (const {socket} of [second, next]) socket.terminate()
})
