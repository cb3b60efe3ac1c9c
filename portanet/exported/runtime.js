// A function exported by portanet, on WebGPU.
//
//   import { load } from "./model.js";
//   const m = await load();
//   const y = await m.run({ x: new Float32Array(64) });  // y[0], y.shape
//   const w = await m.read("layers.0.weight");
//
// States (weights, optimizer, random numbers) stay on the GPU between runs. Inputs are typed
// arrays or lists of numbers, row-major; results are typed arrays with a `shape`, in the
// lists and objects that the function returned them in.

const ARRAYS = { float32: Float32Array, int32: Int32Array, uint32: Uint32Array, bool: Uint8Array };
const STORED = { F32: Float32Array, I32: Int32Array, U32: Uint32Array, BOOL: Uint8Array };
const KINDS = { uniform: "uniform", read: "read-only-storage", write: "storage" };
const SLOT = 256; // bytes: minUniformBufferOffsetAlignment is at most this
const STATUS = 16; // bytes: the first fault's code and label, value, size, unsigned

/** The model in a folder, ready to run on a GPU. */
export async function load(folder = new URL(".", import.meta.url)) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("load: this browser has no WebGPU adapter");
  const device = await adapter.requestDevice();
  const [program, weights] = await Promise.all([
    fetched(new URL("program.json", folder)).then((r) => r.json()),
    tensors(new URL("weights.safetensors", folder)),
  ]);
  const names = [...new Set(program.steps.map((s) => s.kernel))];
  const texts = await Promise.all(
    names.map((n) => fetched(new URL(`kernels/${n}`, folder)).then((r) => r.text())),
  );
  device.pushErrorScope("validation");
  device.pushErrorScope("out-of-memory");
  const model = new Model(device, program);
  await model.prepare(weights, new Map(names.map((n, i) => [n, texts[i]])));
  for (const error of [await device.popErrorScope(), await device.popErrorScope()])
    if (error) throw new Error(`load: ${error.message}`);
  return model;
}

/** The tensors of a safetensors file by name: typed arrays with a `shape`. */
export async function tensors(url) {
  const data = await (await fetched(url)).arrayBuffer();
  const length = Number(new DataView(data).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 8, length)));
  delete header.__metadata__;
  const found = {};
  for (const [name, { dtype, shape, data_offsets: at }] of Object.entries(header)) {
    const bytes = data.slice(8 + length + at[0], 8 + length + at[1]);
    found[name] = shaped(new STORED[dtype](bytes), shape);
  }
  return found;
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`load: ${url}: ${response.status}`);
  return response;
}

const shaped = (array, shape) => Object.assign(array, { shape });
const product = (shape) => shape.reduce((a, b) => a * b, 1);
const onGpu = (array) => (array instanceof Uint8Array ? Uint32Array.from(array) : array);

class Model {
  #last = Promise.resolve(); // runs and reads go one after the other

  constructor(device, program) {
    this.device = device;
    this.program = program;
    this.inputs = program.inputs; // name -> {shape, dtype}
    this.states = program.states;
  }

  /** Everything that a run needs and that stays the same. */
  async prepare(weights, texts) {
    const { device, program } = this;
    const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    const storage = STORAGE | COPY_SRC | COPY_DST;
    this.buffers = program.buffers.map((size) => device.createBuffer({ size, usage: storage }));
    this.status = device.createBuffer({ size: STATUS, usage: storage });
    for (const [name, { buffer }] of Object.entries(program.states))
      this.#write(buffer, weights[`state.${name}`]);
    for (const [name, { buffer }] of Object.entries(program.constants))
      this.#write(buffer, weights[name]);
    let size = STATUS; // of what a run reads back: the status, then the results
    this.results = program.results.map((result) => {
      const nbytes = 4 * product(result.shape);
      size += nbytes;
      return { ...result, nbytes, offset: size - nbytes };
    });
    this.readback = device.createBuffer({ size, usage: MAP_READ | COPY_DST });
    this.canFault = program.steps.some((s) => s.kinds.length > 1 + s.buffers.length);
    await this.#build(texts);
  }

  /** Parameters in one uniform buffer, pipelines, bind groups. */
  async #build(texts) {
    const { device, program } = this;
    const slots = program.steps.map((s) => SLOT * Math.ceil((4 * s.words.length) / SLOT));
    const total = slots.reduce((a, b) => a + b, 0);
    const words = new Uint32Array(Math.max(total, SLOT) / 4);
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    const uniform = device.createBuffer({ size: words.byteLength, usage });
    const modules = new Map();
    for (const [name, code] of texts)
      modules.set(name, device.createShaderModule({ code, label: name }));
    const once = new Map(); // layouts and pipelines, by what they are made from
    const known = (key, make) => once.get(key) ?? (once.set(key, make()), once.get(key));
    let offset = 0;
    const waiting = program.steps.map(async (step, i) => {
      const layout = known(`${step.kinds}`, () => groupLayout(device, step.kinds));
      const resources = step.buffers.map((b) => ({ buffer: this.buffers[b] }));
      if (step.kinds.length > 1 + resources.length) resources.push({ buffer: this.status });
      words.set(step.words, offset / 4);
      resources.unshift({ buffer: uniform, offset, size: slots[i] });
      offset += slots[i];
      const entries = resources.map((resource, binding) => ({ binding, resource }));
      const group = device.createBindGroup({ layout, entries });
      const pipeline = await known(`${step.kernel} ${step.entry} ${step.kinds}`, () =>
        device.createComputePipelineAsync({
          layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module: modules.get(step.kernel), entryPoint: step.entry },
        }),
      );
      return { pipeline, group, groups: step.groups, work: step.work };
    });
    this.batches = inBatches(await Promise.all(waiting), program.work);
    device.queue.writeBuffer(uniform, 0, words);
  }

  /** Run once on inputs by name; resolves to the result. */
  run(inputs = {}) {
    return this.#inTurn(() => this.#run(inputs));
  }

  /** The value of a state, between runs. */
  read(name) {
    return this.#inTurn(() => this.#read(name));
  }

  #inTurn(task) {
    const done = this.#last.then(task);
    this.#last = done.catch(() => {});
    return done;
  }

  async #run(inputs) {
    const { device, program, readback } = this;
    const arrays = this.#checked(inputs);
    for (const [name, array] of arrays) this.#write(program.inputs[name].buffer, array);
    let encoder = device.createCommandEncoder();
    for (const batch of this.batches) {
      if (batch !== this.batches[0]) {
        device.queue.submit([encoder.finish()]);
        encoder = device.createCommandEncoder();
      }
      const pass = encoder.beginComputePass();
      for (const { pipeline, group, groups } of batch) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...groups);
      }
      pass.end();
    }
    encoder.copyBufferToBuffer(this.status, 0, readback, 0, STATUS);
    for (const { buffer, offset, nbytes } of this.results)
      encoder.copyBufferToBuffer(this.buffers[buffer], 0, readback, offset, nbytes);
    // After a fault no state may have changed, so then the status is looked at before.
    if (!this.canFault) this.#assign(encoder);
    device.queue.submit([encoder.finish()]);
    await readback.mapAsync(GPUMapMode.READ);
    const data = readback.getMappedRange().slice(0);
    readback.unmap();
    if (this.canFault) {
      this.#refuse(new Uint32Array(data, 0, 4));
      const after = device.createCommandEncoder();
      this.#assign(after);
      device.queue.submit([after.finish()]);
    }
    const leaves = this.results.map((r) => decoded(data.slice(r.offset, r.offset + r.nbytes), r));
    return built(program.structure, leaves.values());
  }

  #assign(encoder) {
    for (const [from, to] of this.program.assigned) {
      const size = this.program.buffers[to];
      encoder.copyBufferToBuffer(this.buffers[from], 0, this.buffers[to], 0, size);
    }
  }

  async #read(name) {
    const state = this.program.states[name];
    if (!state) throw new TypeError(`read: there is no state ${name}`);
    const size = this.program.buffers[state.buffer];
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const target = this.device.createBuffer({ size, usage });
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.buffers[state.buffer], 0, target, 0, size);
    this.device.queue.submit([encoder.finish()]);
    await target.mapAsync(GPUMapMode.READ);
    const data = target.getMappedRange().slice(0, 4 * product(state.shape));
    target.destroy();
    return decoded(data, state);
  }

  /** [name, typed array] of each input, or an error that names what is wrong. */
  #checked(inputs) {
    for (const name of Object.keys(inputs))
      if (!this.inputs[name]) throw new TypeError(`run: there is no input ${name}`);
    return Object.entries(this.inputs).map(([name, { shape, dtype }]) => {
      const values = inputs[name];
      const Kind = ARRAYS[dtype];
      if (!Array.isArray(values) && !(values instanceof Kind))
        throw new TypeError(`run: ${name} must be a ${Kind.name} or a list of numbers`);
      if (values.length !== product(shape))
        throw new RangeError(`run: ${name} has ${values.length} elements, not [${shape}]`);
      return [name, Array.isArray(values) ? Kind.from(values) : values];
    });
  }

  #write(buffer, array) {
    this.device.queue.writeBuffer(this.buffers[buffer], 0, onGpu(array));
  }

  /** Throw what a kernel found wrong with its data, if anything. */
  #refuse([word, value, size]) {
    if (!word) return;
    this.device.queue.writeBuffer(this.status, 0, new Uint32Array(STATUS / 4));
    const label = this.program.labels[word >>> 4];
    if ((word & 15) === 1) {
      const index = size < 2 ** 31 ? value | 0 : value;
      throw new RangeError(
        `${label}: index ${index} is out of range for an axis of size ${size}`,
      );
    }
    throw new Error(
      `${label}: NaN has no integer value; replace it first, as in where(isnan(x), 0, x)`,
    );
  }
}

/** Steps that are submitted together: so few that no watchdog stops a slow GPU. */
function inBatches(steps, most) {
  const batches = [[]];
  let work = 0;
  for (const step of steps) {
    if (work + step.work > most && work > 0) {
      batches.push([]);
      work = 0;
    }
    batches.at(-1).push(step);
    work += step.work;
  }
  return batches;
}

function groupLayout(device, kinds) {
  const entries = kinds.map((kind, binding) => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type: KINDS[kind] },
  }));
  return device.createBindGroupLayout({ entries });
}

/** Bytes from the GPU as the typed array that they are; a bool is 4 bytes there. */
function decoded(data, { dtype, shape }) {
  const array = dtype === "bool" ? Uint8Array.from(new Uint32Array(data)) : new ARRAYS[dtype](data);
  return shaped(array, shape);
}

/** The result that a structure describes, its tensors taken from an iterator. */
function built(structure, leaves) {
  if (structure === "tensor") return leaves.next().value;
  const [[kind, inside]] = Object.entries(structure);
  if (kind === "value") return inside;
  if (kind === "list") return inside.map((s) => built(s, leaves));
  return Object.fromEntries(inside.map(([key, s]) => [key, built(s, leaves)]));
}
