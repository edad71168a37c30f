// Asks the Redis door at the address of the first argument, HOST:PORT or a path, as
// programs with ioredis do. The second is a token, if one is needed. It exits 1 at the
// first answer that is not what it should be.
import assert from 'node:assert/strict'
import Redis from 'ioredis'

const [address, token] = process.argv.slice(2)
const [host, port] = address.split(':')
const where = port ? { host, port: Number(port) } : { path: address }
const client = () => new Redis({ ...where, password: token, maxRetriesPerRequest: 0, connectTimeout: 5000 })

// asked is a reply of pairs as an object.
const asked = (pairs) => Object.fromEntries(pairs.reduce((rows, v, i) => (i % 2 ? rows.at(-1).push(v) : rows.push([v]), rows), []))

const door = client()
door.on('error', (err) => { throw err })
assert.equal(await door.ping(), 'PONG')
assert.deepEqual(await door.call('CL.THROTTLE', 'io', '4', '1', '60'), [0, 5, 4, -1, 60])
for (let i = 0; i < 4; i++) await door.call('CL.THROTTLE', 'io', '4', '1', '60')
const [limited, , remaining, retry] = await door.call('CL.THROTTLE', 'io', '4', '1', '60')
assert.deepEqual([limited, remaining], [1, 0])
assert.ok(retry > 0 && retry <= 60)

const first = asked(await door.call('HG.TAKE', 'a', 'x', 'io', 'COST', '3'))
assert.deepEqual([first.allowed, first.remaining, first.bound_by], [1, 7, 'r/w'])
assert.equal(asked(first.limits[0]).id, 'r/w')
await assert.rejects(door.call('HG.TAKE', 'a'), /wrong number of arguments/)
await assert.rejects(door.call('HG.TAKE', 'nowhere', 'x', 'io'), /nowhere/)

// A pipeline is answered in order, by one client and by many at one time.
const replies = await door.pipeline(Array.from({ length: 500 }, () => ['call', 'CL.THROTTLE', 'pipe', '99', '100', '3600'])).exec()
assert.equal(replies.length, 500)
replies.forEach(([err, [over, limit, left]], i) => assert.deepEqual([err, over, limit, left], [null, i < 100 ? 0 : 1, 100, Math.max(0, 99 - i)]))
const crowd = Array.from({ length: 10 }, client)
const passed = (await Promise.all(crowd.flatMap((c) => Array.from({ length: 20 }, () => c.call('CL.THROTTLE', 'crowd', '49', '50', '3600'))))).filter(([over]) => over === 0)
assert.equal(passed.length, 50)
await Promise.all([door, ...crowd].map((c) => c.quit()))
console.log('ok')
