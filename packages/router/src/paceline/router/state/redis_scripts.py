"""What the Redis server itself does, in Lua, so that it is done as a whole or not at all (Redis 7.0 and later).

For each shape and model there is a hash. Its field "" counts the model's segments; each other field is an arm, as
text, and holds doubles: the count at which its sums were right, then the sums. A sorted set has the names of a
shape's models, by when they were touched; a key for each router the number of its last batch. Lua's numbers are
doubles, so sums come to the same as in Python.
"""

from __future__ import annotations

LOST = "LOST"  # how the error of a server begins that has less than a router has read there

# Shared by the scripts that write. Arguments from `first`: a model's name, its segments, how many segments the router
# has read here, how many arms, and of each its text and sums; then the next model. Everything is read and computed
# before the first write, since an error in the middle undoes nothing.
_PARSED = """
local function parsed(first)
  local models, at = {}, first
  while at <= #ARGV do
    local model = {name = ARGV[at], segments = tonumber(ARGV[at + 1]), seen = tonumber(ARGV[at + 2]), arms = {}}
    local count = tonumber(ARGV[at + 3])
    for index = 0, count - 1 do
      model.arms[#model.arms + 1] = {text = ARGV[at + 4 + 2 * index], sums = ARGV[at + 5 + 2 * index]}
    end
    models[#models + 1] = model
    at = at + 4 + 2 * count
  end
  return models
end

local function is_hash(key)
  return redis.call('TYPE', key).ok == 'hash'
end

local function counted(key)
  local count = is_hash(key) and tonumber(redis.call('HGET', key, '') or '')
  if count and count >= 0 and count <= 2 ^ 53 then return count end
  return nil
end

local function touch(names, key, name, limit, prefix, keep_s)
  redis.call('EXPIRE', key, keep_s)
  local now = redis.call('TIME')
  redis.call('ZADD', names, now[1] .. '.' .. string.format('%06d', now[2]), name)
  redis.call('EXPIRE', names, keep_s)
  local over = redis.call('ZCARD', names) - limit
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', names, 0, over - 1)) do
      redis.call('DEL', prefix .. old)
      redis.call('ZREM', names, old)
    end
  end
end
"""

RESTORE = (
    _PARSED
    + """
-- KEYS: names, a hash for each model. ARGV: prefix, most models, seconds to keep them, models.
for index, model in ipairs(parsed(4)) do
  local key = KEYS[1 + index]
  local count = counted(key)
  if not count or count < model.segments then
    redis.call('DEL', key)
    redis.call('HSET', key, '', string.format('%.0f', model.segments))
    for _, arm in ipairs(model.arms) do
      redis.call('HSET', key, arm.text, struct.pack('<d', model.segments) .. arm.sums)
    end
    touch(KEYS[1], key, model.name, tonumber(ARGV[2]), ARGV[1], ARGV[3])
  end
end
return 1
"""
)

APPLY = (
    _PARSED
    + """
-- KEYS: names, the router's last batch, a hash for each model.
-- ARGV: prefix, most models, seconds to keep them, number of the batch, seconds to keep that, discount, width, most
-- arms, weight that is forgotten, models. Returns the hash of each model.
local number, discount, width = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7])
local most, forgotten = tonumber(ARGV[8]), tonumber(ARGV[9])
local doubles = '<' .. string.rep('d', width)

local function weight_at(value, count)
  if #value ~= 8 * (width + 1) then return -1 end
  local at, weight = struct.unpack('<dd', value)
  if at <= count and weight >= 0 then return weight * discount ^ (count - at) end
  return -1
end

local function sums_at(value, count)
  if not value or weight_at(value, count) < 0 then return nil end
  local share = discount ^ (count - struct.unpack('<d', value))
  local sums = {struct.unpack(doubles, value, 9)}
  for place = 1, width do
    sums[place] = sums[place] * share
    if not (math.abs(sums[place]) <= 1e15) then return nil end
  end
  return sums
end

local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
local models = parsed(10)
if number > last then
  for index, model in ipairs(models) do
    local key = KEYS[2 + index]
    local count = counted(key)
    if (count or 0) < model.seen then
      local said = string.format("LOST there are %d segments, and %d were read before", count or 0, model.seen)
      return redis.error_reply(said)
    end
    model.bad = not count and redis.call('EXISTS', key) == 1
    model.count = (count or 0) + model.segments
    for _, arm in ipairs(model.arms) do
      local added = {struct.unpack(doubles, arm.sums)}
      local before = count and sums_at(redis.call('HGET', key, arm.text), model.count)
      for place = 1, width do
        added[place] = added[place] + (before and before[place] or 0)
      end
      arm.value = struct.pack('<d', model.count) .. struct.pack(doubles, unpack(added, 1, width))
    end
  end
  redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5])
  for index, model in ipairs(models) do
    local key = KEYS[2 + index]
    if model.bad then redis.call('DEL', key) end
    redis.call('HSET', key, '', string.format('%.0f', model.count))
    for _, arm in ipairs(model.arms) do
      redis.call('HSET', key, arm.text, arm.value)
    end
    local entries, rest = redis.call('HGETALL', key), {}
    for place = 1, #entries, 2 do
      if entries[place] ~= '' then
        rest[#rest + 1] = {text = entries[place], weight = weight_at(entries[place + 1], model.count)}
      end
    end
    table.sort(rest, function(one, other) return one.weight > other.weight end)
    for place, arm in ipairs(rest) do
      if place > most or (arm.weight >= 0 and arm.weight < forgotten) then redis.call('HDEL', key, arm.text) end
    end
    touch(KEYS[1], key, model.name, tonumber(ARGV[2]), ARGV[1], ARGV[3])
  end
end
local found = {}
for index, model in ipairs(models) do
  found[index] = is_hash(KEYS[2 + index]) and redis.call('HGETALL', KEYS[2 + index]) or {}
end
return found
"""
)

READ = """
-- KEYS: names. ARGV: prefix, most models, most fields of a hash that are read. Returns names and hashes in turn.
local found = {}
for _, name in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)) do
  local key = ARGV[1] .. name
  local kind = redis.call('TYPE', key).ok
  found[#found + 1] = name
  if kind == 'hash' and redis.call('HLEN', key) <= tonumber(ARGV[3]) then
    found[#found + 1] = redis.call('HGETALL', key)
  else
    found[#found + 1] = {}
  end
end
return found
"""
