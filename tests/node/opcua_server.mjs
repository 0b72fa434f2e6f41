// An OPC UA server that nobody here wrote (node-opcua), for tests/interop. The first line of standard input is JSON:
// {pki, certificate, privateKey, trusted: [files], user, password, variables, hz}; the end of the input ends the server.
// Each variable counts up by one at `hz`, so that a reader can tell a lost value. Prints {"endpoint": ...} when ready.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import {
  DataType,
  MessageSecurityMode,
  OPCUACertificateManager,
  OPCUAServer,
  SecurityPolicy,
  StatusCodes,
} from "node-opcua";

const lines = createInterface({ input: process.stdin });
const settings = JSON.parse((await once(lines, "line"))[0]);

const manager = new OPCUACertificateManager({
  rootFolder: settings.pki,
  automaticallyAcceptUnknownCertificate: false,
});
await manager.initialize();
for (const file of settings.trusted) {
  await manager.trustCertificate(readFileSync(file));
}

const server = new OPCUAServer({
  host: "127.0.0.1",
  hostname: "127.0.0.1",
  port: 0,
  allowAnonymous: true,
  certificateFile: settings.certificate,
  privateKeyFile: settings.privateKey,
  serverCertificateManager: manager,
  securityPolicies: [SecurityPolicy.None, SecurityPolicy.Basic256Sha256],
  securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
  // 0 means that no change is merged with the next one within a window of time.
  serverCapabilities: { minSupportedSampleRate: 0 },
  serverInfo: { applicationUri: settings.applicationUri },
  userManager: { isValidUser: (user, password) => user === settings.user && password === settings.password },
});
await server.initialize();

const space = server.engine.addressSpace;
const own = space.registerNamespace("urn:test:counters");
const kit = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Counters" });
const variables = [];
for (let i = 0; i < settings.variables; i += 1) {
  // minimumSamplingInterval 0: at every change. Sampling by a timer may itself skip a change on a busy machine.
  variables.push(
    own.addVariable({ componentOf: kit, browseName: `C${i}`, dataType: "UInt32", minimumSamplingInterval: 0 }),
  );
}
const bad = own.addVariable({ componentOf: kit, browseName: "Bad", dataType: "Double" });
bad.setValueFromSource({ dataType: DataType.Double, value: 1 }, StatusCodes.BadSensorFailure);

let count = 0;
const tick = () => {
  const now = new Date();
  for (const variable of variables) {
    variable.setValueFromSource({ dataType: DataType.UInt32, value: count }, StatusCodes.Good, now);
  }
  count += 1;
};
tick();
await server.start();
const timer = setInterval(tick, 1000 / settings.hz);
console.log(JSON.stringify({ endpoint: `opc.tcp://127.0.0.1:${server.endpoints[0].port}` }));

await once(lines, "close");
clearInterval(timer);
await server.shutdown(0);
process.exit(0);
