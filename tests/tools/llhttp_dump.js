// SPDX-License-Identifier: Apache-2.0
// Reads cases (u32 little-endian length, then bytes) from standard input and prints, one JSON line each, what Node's own
// HTTP parser (llhttp, strict) makes of them: the counterpart of http1_dump.c, with the same output. With the argument
// "response", each case is what a server sends until it closes, and the counterpart is answer_dump.c.
'use strict';
const fs = require('fs');
const { HTTPParser, methods } = require('_http_common');

const HEADER_BYTES_MAX = 16384;

function parse(bytes) {
  const requests = [];
  const parser = new HTTPParser();
  let url = '';
  let inHead = true;
  parser.initialize(HTTPParser.REQUEST, {}, HEADER_BYTES_MAX, HTTPParser.kLenientNone);
  parser[HTTPParser.kOnHeaders | 0] = (headers, part) => {
    if (inHead) url += part; // not for trailers
  };
  parser[HTTPParser.kOnHeadersComplete | 0] = (major, minor, headers, method, target, s, m, upgrade, keep) => {
    requests.push({
      method: methods[method], target: Buffer.from(url + (target || ''), 'latin1').toString('hex'),
      minor, body: '', done: false, keep, upgrade: !!upgrade,
    });
    url = '';
    inHead = false;
    return 0;
  };
  parser[HTTPParser.kOnBody | 0] = (part) => { requests[requests.length - 1].body += part.toString('hex'); };
  parser[HTTPParser.kOnMessageComplete | 0] = () => {
    requests[requests.length - 1].done = true;
    inHead = true;
  };
  const result = parser.execute(bytes);
  parser.close();
  const last = requests[requests.length - 1];
  let end = 'more';
  let reason = '';
  if (result instanceof Error) {
    reason = result.code;
    end = reason === 'HPE_CLOSED_CONNECTION' ? 'closed' : 'refused';
  } else if (last && last.upgrade && last.done) {
    end = 'upgrade';
  } else if (last && last.done && !last.keep) {
    end = 'closed';
  }
  return { requests, end, reason };
}

function parseResponse(bytes) {
  const parser = new HTTPParser();
  let answer = null;
  parser.initialize(HTTPParser.RESPONSE, {}, HEADER_BYTES_MAX, HTTPParser.kLenientNone);
  parser[HTTPParser.kOnHeaders | 0] = () => {};
  parser[HTTPParser.kOnHeadersComplete | 0] = (major, minor, headers, method, url, status, text, upgrade, keep) => {
    if (!answer) answer = { status, minor, keep, body: '', done: false };
    return 0;
  };
  parser[HTTPParser.kOnBody | 0] = (part) => { answer.body += part.toString('hex'); };
  parser[HTTPParser.kOnMessageComplete | 0] = () => { answer.done = true; };
  let result = parser.execute(bytes);
  if (!(result instanceof Error) && !(answer && answer.done)) result = parser.finish();
  parser.close();
  return { answer, reason: result instanceof Error ? result.code : '' };
}

const input = fs.readFileSync(0);
const one = process.argv[2] === 'response' ? parseResponse : parse;
const lines = [];
for (let at = 0; at < input.length;) {
  const length = input.readUInt32LE(at);
  lines.push(JSON.stringify(one(input.subarray(at + 4, at + 4 + length))));
  at += 4 + length;
}
fs.writeSync(1, `${lines.join('\n')}\n`);
