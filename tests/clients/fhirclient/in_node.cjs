// The SMART JavaScript client in Node, as a server of an app uses it. Called with the name of
// a scenario; reads {state, ...} as JSON from stdin, and writes what it saw as JSON to stdout.
"use strict";

const { readFileSync } = require("node:fs");
const smart = require("fhirclient");

const kept = new Map();
const storage = {
  get: async (key) => kept.get(key),
  set: async (key, value) => kept.set(key, value) && value,
  unset: async (key) => kept.delete(key),
};

/** What an app sees of a request that fails. */
async function failure(promise) {
  return promise.then(
    () => null,
    (error) => ({ status: error.status, message: error.message }),
  );
}

const scenarios = {
  async life(client, { organization }) {
    const created = await client.create(organization);
    const address = `Organization/${created.id}`;
    const updated = await client.update({ ...created, name: "updated" });
    const patched = await client.patch(address, [
      { op: "replace", path: "/name", value: "patched" },
    ]);
    const read = await client.request(address);
    await client.delete(address);
    return { created, updated, patched, read, gone: await failure(client.request(address)) };
  },

  async pages(client, { search }) {
    let pages = 0;
    const count = () => { pages += 1; };
    await client.request(search, { pageLimit: 0, onPage: count });
    const flat = await client.request(search, { pageLimit: 0, flat: true });
    const first = await client.request(search, { pageLimit: 1, flat: true });
    const iterated = [];
    for await (const resource of client.resources(search)) {
      iterated.push(resource.id);
    }
    const ids = (list) => list.map((resource) => resource.id);
    return { pages, flat: ids(flat), first: ids(first), iterated };
  },

  async references(client, { observation, search }) {
    const paths = ["subject", "performer.0"];
    const graph = await client.request(observation, { resolveReferences: paths });
    const options = { resolveReferences: paths, graph: false, pageLimit: 0 };
    const { data, references } = await client.request(search, options);
    return { graph, pages: data.length, references };
  },

  async context(client) {
    return {
      version: await client.getFhirRelease(),
      patient: await client.patient.read(),
      observations: await client.patient.request("Observation", { flat: true }),
      user: await client.user.read(),
    };
  },

  async refused(client, { addresses }) {
    return Promise.all(addresses.map((address) => failure(client.request(address))));
  },

  async refresh(client, { address }) {
    const before = client.state.tokenResponse.access_token;
    const resource = await client.request(address);
    return { resource, fresh: client.state.tokenResponse.access_token !== before };
  },
};

const input = JSON.parse(readFileSync(0, "utf8"));
const client = smart({}, {}, storage).client(input.state);
scenarios[process.argv[2]](client, input).then(
  (seen) => process.stdout.write(JSON.stringify(seen)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
