-- ARGV: now, queues. Answers in how many ms a turn on these queues would find something, -1 for never. Suspects do not
-- count: a worker that may take them asks for them in its turn, and one that may not would only be kept from sleeping.

for i = 2, #ARGV do
  tolerant('LLEN', base .. 'wake:' .. ARGV[i])
  for priority = 4, 0, -1 do
    if tolerant('LLEN', base .. 'ready:' .. ARGV[i] .. ':' .. priority) > 0 then return 0 end
  end
end
return due_in(first_due(), clock())
