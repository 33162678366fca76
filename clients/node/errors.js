// The details of an error, of calls and of the items of a stream alike.

import grpc from '@grpc/grpc-js';

import { definitions } from './protos.js';

// The part by which programs decide: the message of a status is for people, and may change.
export function details(status) {
  return status.details.flatMap((any) => {
    const { type, detail } = unpack(any);
    switch (type) {
      case 'google.rpc.ErrorInfo': {
        const { reason, domain, metadata } = detail;
        const pairs = Object.entries(metadata).sort();
        return [['reason', reason], ['domain', domain], ...pairs]
          .map((pair) => pair.join('='))
          .join(', ');
      }
      case 'google.rpc.BadRequest':
        return detail.fieldViolations.map(({ field, description }) => `${field}: ${description}`);
      case 'google.rpc.RetryInfo':
        return `retry_delay=${Number(detail.retryDelay.seconds) + detail.retryDelay.nanos / 1e9}s`;
      default:
        return type;
    }
  });
}

export function reason(status) {
  const info = status.details.map(unpack).find(({ type }) => type === 'google.rpc.ErrorInfo');
  return info?.detail.reason ?? '';
}

function unpack({ type_url: url, value }) {
  const type = url.slice(url.lastIndexOf('/') + 1);
  return { type, detail: definitions[type]?.deserialize(value) };
}

export function printError(error) {
  if (!(error.metadata instanceof grpc.Metadata)) {
    console.error(`error: ${error.message}`); // not from a call
    return;
  }
  console.error(`error: ${grpc.status[error.code]}: ${error.details}`);
  for (const status of error.metadata.get('grpc-status-details-bin')) {
    for (const detail of details(definitions['google.rpc.Status'].deserialize(status))) {
      console.error(`  ${detail}`);
    }
  }
}
