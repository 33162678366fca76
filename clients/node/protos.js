// The contract, as it stands in proto/: it is read when the program starts.

import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

export const definitions = protoLoader.loadSync(
  ['sum/v1/sum.proto', 'sum/v1/counter.proto', 'error_details.proto'],
  {
    includeDirs: ['../../proto', '.'].map((dir) => fileURLToPath(new URL(dir, import.meta.url))),
    // A JavaScript number is exact up to 2^53 only: an int64 comes as a string, to make a BigInt of.
    longs: String,
    defaults: true,
    oneofs: true,
  },
);
export const { SumService, CounterService } = grpc.loadPackageDefinition(definitions).sum.v1;

// protobufjs would wrap a value out of range without a word.
export function parseInt64(word) {
  if (!/^[+-]?\d+$/.test(word) || BigInt.asIntN(64, BigInt(word)) !== BigInt(word)) {
    throw new RangeError(`"${word}" is not a 64-bit integer`);
  }
  return BigInt(word);
}
