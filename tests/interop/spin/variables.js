// Variables as Spin gives them: those that are declared, and an error for each other one. VALUES is put in its place.

const values = VALUES;

export const variables = {
  get(name) {
    if (name in values) return values[name];
    throw { tag: 'undefined', val: name };
  },
};
