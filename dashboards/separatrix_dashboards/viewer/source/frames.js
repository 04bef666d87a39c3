// Coordinates as they come from Python: float32, little-endian, (n_frames, n_atoms, 3), in angstroms.

export function atomsAndFrames(nAtoms, bytes) {
  const view = bytes ?? new DataView(new ArrayBuffer(0));
  // A copy: the bytes may start where no float32 can.
  const buffer = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  const values = new Float32Array(buffer);
  const stored = nAtoms > 0 ? values.length / (3 * nAtoms) : 0;
  if (!Number.isInteger(stored)) {
    throw new Error(`The coordinates do not fit the molecule: ${values.length} numbers for ${nAtoms} atoms.`);
  }
  return { nAtoms, stored, values };
}

// Long paths are stored thinned: frame i of n is the nearest of the stored ones.
export function frameValues({ nAtoms, stored, values }, frame, nFrames) {
  const index = nFrames > 1 ? Math.round((frame * (stored - 1)) / (nFrames - 1)) : 0;
  return values.subarray(index * 3 * nAtoms, (index + 1) * 3 * nAtoms);
}

// The smallest box around all atoms in all frames, and the radius of the sphere about its centre that holds them.
export function bounds({ values }) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (let i = 0; i < values.length; i++) {
    const axis = i % 3;
    if (values[i] < low[axis]) low[axis] = values[i];
    if (values[i] > high[axis]) high[axis] = values[i];
  }
  const centre = low.map((value, axis) => (value + high[axis]) / 2);
  let square = 0;
  for (let i = 0; i < values.length; i += 3) {
    const [x, y, z] = [values[i] - centre[0], values[i + 1] - centre[1], values[i + 2] - centre[2]];
    square = Math.max(square, x * x + y * y + z * z);
  }
  return { low, high, centre, radius: Math.sqrt(square) };
}
