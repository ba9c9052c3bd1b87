// Validates custom resources strictly: JSON list of objects on stdin, JSON list of complaints for each on stdout.
//
// The packages hold compiled validators, which let unknown fields pass. A validator reads every field that its schema knows, so a field
// that was never read is one that the API server would drop: objects go in behind proxies that take note of what is read.

const PACKAGES = {
  "argoproj.io": "argo-rollouts",
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

// Maps of anything: their schema says nothing of what is in them, so nothing is read.
const FREE = [/\.trafficRouting\.plugins\./];

function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  const children = {};
  for (const [key, child] of Object.entries(value)) {
    const where = Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`;
    if (!Array.isArray(value)) unread.add(where);
    children[key] = { where, child, proxy: watched(child, where, unread) };
  }
  return new Proxy(value, {
    get(target, key) {
      if (!Object.hasOwn(children, key)) return target[key];
      unread.delete(children[key].where);
      return children[key].proxy;
    },
    ownKeys(target) {
      // Who lists the keys takes any: a map such as labels.
      for (const { where } of Object.values(children)) unread.delete(where);
      return Reflect.ownKeys(target);
    },
  });
}

async function complaints(object) {
  const [group, version] = object.apiVersion.split("/");
  const name = PACKAGES[group];
  if (name === undefined) return [`no schemas of ${object.apiVersion} are at hand`];
  const { [object.kind]: model } = await import(`@kubernetes-models/${name}/${group}/${version}`).catch(() => ({}));
  if (model === undefined) return [`${object.apiVersion} has no kind ${object.kind}`];
  const unread = new Set();
  const found = [];
  try {
    model.prototype.validate.call(watched(object, "$", unread));
  } catch (error) {
    if (error.errors === undefined) throw error;
    found.push(...error.errors.map((each) => `$${each.instancePath} ${each.message}`));
  }
  // Of an unknown field and what lies below it, the field is told.
  const below = (path, other) => path.startsWith(other) && /^[.[]/.test(path.slice(other.length));
  const roots = [...unread].filter((path) => !FREE.some((free) => free.test(path)) && ![...unread].some((other) => below(path, other)));
  return [...found, ...roots.map((path) => `${path} is an unknown field`)];
}

let input = "";
for await (const chunk of process.stdin) input += chunk;
const answers = [];
for (const object of JSON.parse(input)) answers.push(await complaints(object));
process.stdout.write(JSON.stringify(answers));
