// A manager as an application of PM2: the tests start it in a process of its own.
import {TokenManager} from 'headgate/pm2'

const [options, noCallback] = process.argv.slice(2)
const manager = new TokenManager(JSON.parse(options))
if (noCallback) manager.start()
else manager.start((err) => process.send(err ? err.message : 'started'))
