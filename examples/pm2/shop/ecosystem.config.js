// Two clusters of two instances, as on two machines: each with its own Headgate, which PM2
// runs like any program. All state is in the Redis that they share.
const {HEADGATE_BIN, POLICY, REDIS_URL, SCRATCH, HEADGATE_PORTS, SHOP_PORTS} = process.env
const headgatePorts = HEADGATE_PORTS.split(' ')
const shopPorts = SHOP_PORTS.split(' ')

const cluster = (name, i) => [
  {
    name: `headgate-${name}`,
    script: HEADGATE_BIN,
    interpreter: 'none',
    args: ['serve', '--policy', POLICY, '--store', REDIS_URL, '--data', `${SCRATCH}/headgate-${name}`, '--resp', `127.0.0.1:${headgatePorts[i]}`, '--http', '', '--grpc', '', '--admin', '']
  },
  {
    name: `shop-${name}`,
    script: 'app.mjs',
    cwd: __dirname,
    instances: 2,
    exec_mode: 'cluster',
    env: {CLUSTER: name, PORT: shopPorts[i], HEADGATE_URL: `redis://127.0.0.1:${headgatePorts[i]}`}
  }
]

module.exports = {apps: ['a', 'b'].flatMap(cluster)}
