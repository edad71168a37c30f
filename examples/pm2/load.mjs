// Sends requests with loadtest: load.mjs '{"url": …, "maxRequests": …}'. Says "begun" after
// the first ten answers, and at the end how many of which instance had which status; 0 is a
// request that failed. Each has a connection of its own: one that is kept may be closed by the
// instance as the next request comes.
import {loadTest} from 'loadtest'

const answers = {}
let n = 0
const {headers, ...options} = JSON.parse(process.argv[2])
await loadTest({
  ...options,
  headers: {...headers, Connection: 'close'},
  maxSeconds: 60,
  timeout: 10_000,
  quiet: true,
  statusCallback(error, result) {
    const answer = `${result?.statusCode ?? 0} ${result?.headers['x-instance'] ?? ''}`
    answers[answer] = (answers[answer] ?? 0) + 1
    if (++n === 10) console.log('begun')
  }
})
console.log(JSON.stringify(answers))
process.exit() // connections that loadtest keeps
