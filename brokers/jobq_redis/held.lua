-- Put before the scripts that look through all that a worker holds.

-- Pairs of epoch and id. Each that is put back goes to the front, so the newest first: the oldest ends up before them.
local function newest_first(held)
  local all, entries = tolerant('HGETALL', held), {}
  for i = 1, #all, 2 do entries[#entries + 1] = { tonumber(all[i + 1]) or 0, all[i] } end
  table.sort(entries, function(a, b) return a[1] > b[1] end)
  return entries
end
