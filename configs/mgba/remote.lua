-- pmd-agent's hand inside mGBA (0.10): frames, memory and keys over one TCP connection.
--
-- Load it in mGBA (Tools > Scripting > File > Load script) with the ROM running, then:  pmd-agent play --remote 127.0.0.1:8765
-- To listen elsewhere set PMD_REMOTE_ADDRESS and PMD_REMOTE_PORT before the script is loaded. Whoever can connect controls the game; there is no
-- password, so the default is this machine only.
--
-- The protocol, all numbers little endian. Both directions: u32 length of what follows (at most 2 MiB), then
--   request   u32 id, u8 operation, its arguments        reply   u32 id, u8 status (0 done, 1 refused: the rest is a sentence), its result
-- Requests may be sent ahead; they are done and answered in order.
--   1 hello   u32 version (1)                             u32 version, u32 frame, u32 ROM checksum (CRC-32), 4 bytes code, 12 bytes title
--   2 run     u16 keys, u32 frames, u8 want               u32 frame, u16 pages, pages x (u16 number, 4096 bytes), u32 bytes, PNG
--             want: 1 the memory pages that are new since they were last sent on this connection, 2 a picture of the last frame
--             page 0..63: 0x02000000 + 4096 n; 64..71: 0x03000000 + 4096 (n - 64)
--   3 reset   (video memory is cleared too)               u32 frame
--   4 write   u32 address, u32 value                      nothing
--   5 save    nothing                                     a save state with cartridge save and clock
--   6 load    a save state                                u32 frame
--
-- While somebody is connected the game stands still between two requests (and the window with it). When a connection is lost it stands for
-- HOLD_SECONDS more, so that the same client can come back to the very frame it left; then the game is yours again.

local ADDRESS = os.getenv("PMD_REMOTE_ADDRESS") or "127.0.0.1"
local PORT = tonumber(os.getenv("PMD_REMOTE_PORT") or "8765")
local VERSION, LIMIT, HOLD_SECONDS, PAGE = 1, 2 * 1024 * 1024, 5, 4096
local PICTURE = os.tmpname()

local listener, client
local received = ""     -- bytes of requests that are not complete yet
local sent = {}         -- memory pages as the client has them
local running           -- the run request at work: {id, left, want, keys}
local lost              -- when the connection was lost

local function say(text) if console then console:log(text) end end

-- mGBA 0.10 closes a socket's number once more when the object is collected; by then it may be that of the next connection. So nothing
-- is closed by hand: the object is let go of and collected at once.
local function let_go()
  client = nil
  collectgarbage()
  collectgarbage()
end

local function drop(why)
  if client then
    let_go()
    lost = os.time()
    say("pmd-agent: connection closed: " .. why)
  end
  received, sent, running = "", {}, nil
end

-- Sends all of it; a client that does not read for ten seconds is dropped.
local function send(bytes)
  local at, deadline = 1, os.time() + 10
  while client and at <= #bytes do
    local done = client._s:send(string.sub(bytes, at, at + 65535))
    if done and done > 0 then
      at = at + done
    elseif os.time() > deadline then
      drop("it does not read")
    end
  end
end

local function reply(id, status, body) send(string.pack("<I4I4I1", 5 + #body, id, status) .. body) end

local function new_pages()
  local parts, count = {}, 0
  for n = 0, 71 do
    local address = n < 64 and 0x02000000 + PAGE * n or 0x03000000 + PAGE * (n - 64)
    local bytes = emu:readRange(address, PAGE)
    if sent[n] ~= bytes then
      sent[n] = bytes
      count = count + 1
      parts[#parts + 1] = string.pack("<I2", n) .. bytes
    end
  end
  return string.pack("<I2", count) .. table.concat(parts)
end

local function picture()
  emu:screenshot(PICTURE)
  local file = io.open(PICTURE, "rb")
  if not file then return string.pack("<I4", 0) end
  local png = file:read("a")
  file:close()
  return string.pack("<I4", #png) .. png
end

local function finish_run()
  local r = running
  running = nil
  local pages = r.want & 1 ~= 0 and new_pages() or string.pack("<I2", 0)
  local png = r.want & 2 ~= 0 and picture() or string.pack("<I4", 0)
  reply(r.id, 0, string.pack("<I4", emu:currentFrame()) .. pages .. png)
end

local operations = {
  [1] = function(id, body)
    local version = string.unpack("<I4", body)
    if version ~= VERSION then return reply(id, 1, "this script speaks version " .. VERSION .. ", not " .. version) end
    sent = {}
    local code, title = emu:getGameCode(), emu:getGameTitle()
    reply(id, 0, string.pack("<I4I4I4", VERSION, emu:currentFrame(), string.unpack(">I4", (emu:checksum() .. "\0\0\0\0"):sub(1, 4))) ..
      string.pack("c4c12", code:gsub("^AGB%-", ""):sub(1, 4), title:sub(1, 12)))
  end,
  [2] = function(id, body)
    local keys, frames, want = string.unpack("<I2I4I1", body)
    running = {id = id, left = frames, want = want}
    emu:setKeys(keys & 0x3FF)
    if frames == 0 then finish_run() end
  end,
  [3] = function(id)
    local vram = emu.memory.vram
    for at = 0, vram:size() - 4, 4 do vram:write32(at, 0) end
    emu:reset()
    reply(id, 0, string.pack("<I4", emu:currentFrame()))
  end,
  [4] = function(id, body)
    local address, value = string.unpack("<I4I4", body)
    emu:write32(address, value)
    reply(id, 0, "")
  end,
  [5] = function(id)
    local state = emu:saveStateBuffer(C.SAVESTATE.SAVEDATA | C.SAVESTATE.RTC)
    if state then reply(id, 0, state) else reply(id, 1, "no save state") end
  end,
  [6] = function(id, body)
    if not emu:loadStateBuffer(body, C.SAVESTATE.SAVEDATA | C.SAVESTATE.RTC) then return reply(id, 1, "the save state is refused") end
    reply(id, 0, string.pack("<I4", emu:currentFrame()))
  end,
}

-- Does the requests that are complete, until one has to wait for frames.
local function work()
  while client and not running and #received >= 4 do
    local length = string.unpack("<I4", received)
    if length < 5 or length > LIMIT then return drop("a request of " .. length .. " bytes") end
    if #received < 4 + length then return end
    local id, operation = string.unpack("<I4I1", received, 5)
    local body = received:sub(10, 4 + length)
    received = received:sub(5 + length)
    local work_on = operations[operation]
    if not work_on then
      reply(id, 1, "no operation " .. operation)
    else
      local ok, why = pcall(work_on, id, body)
      if not ok then running = nil; reply(id, 1, tostring(why)) end
    end
  end
end

local function accept()
  let_go()
  local came = listener:accept()
  if not came then return end
  received, sent, running, lost = "", {}, nil, nil
  client = came
  -- the socket library would look at it in every frame as well; we look ourselves
  if client._onframecb then callbacks:remove(client._onframecb); client._onframecb = nil end
  say("pmd-agent: connected")
end

-- At the end of every frame: counts down a run, then holds the game until the next request that needs frames.
callbacks:add("frame", function()
  if running then
    running.left = running.left - 1
    if running.left > 0 then return end
    finish_run()
  end
  while true do
    work()
    if running then return end
    if client then
      local ready = client._s:select(50)
      if ready < 0 then
        drop("lost")
      elseif ready > 0 then
        local bytes = client._s:recv(65536)
        if not bytes or #bytes == 0 then drop("the other side has gone") else received = received .. bytes end
      elseif listener._s:select(0) > 0 then
        accept() -- who comes back does not wait for the old connection to be noticed as dead
      end
    else
      local wait = lost and os.time() - lost <= HOLD_SECONDS
      if listener._s:select(wait and 50 or 0) > 0 then accept()
      elseif not wait then lost = nil; return end
    end
  end
end)

local problem
listener, problem = socket.bind(ADDRESS, PORT)
if not listener then
  say("pmd-agent: cannot listen on " .. ADDRESS .. ":" .. PORT .. ": " .. tostring(problem))
else
  local ok, why = listener:listen(4)
  if listener._onframecb then callbacks:remove(listener._onframecb); listener._onframecb = nil end
  say(ok and "pmd-agent: waiting on " .. ADDRESS .. ":" .. PORT or "pmd-agent: cannot listen: " .. tostring(why))
end
